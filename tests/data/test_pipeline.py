"""The pipeline: determinism, exact resumption, prefetching, and its checks."""

import dataclasses
import functools
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from transfusion_jax.data import inspection, pipeline
from transfusion_jax.data.rows import packing
from transfusion_jax.training import processes

PATCHES = 16


def assert_equal(one, two):
  assert one.keys() == two.keys()
  for key in one:
    np.testing.assert_array_equal(one[key], two[key])


def iterate(config, *, seed=0, what='batches', rows=None):
  rows = range(config.rows) if rows is None else rows
  if what == 'pictures':
    return pipeline.pictures(config, split='train', seed=seed, rows=rows)
  shape = pipeline.pixels(config)
  return pipeline.batches(
    config, patches=PATCHES, image_shape=shape, seed=seed, rows=rows
  )


@pytest.mark.parametrize('what', ['batches', 'pictures'])
@pytest.mark.parametrize('prefetch', [0, 3])
def test_resuming_twice_is_exact(data, what, prefetch):
  data = dataclasses.replace(data, prefetch=prefetch)
  whole = iterate(dataclasses.replace(data, prefetch=0), what=what)
  expected = [next(whole) for _ in range(7)]
  state = json.dumps(iterate(data, what=what).get_state())
  for start, stop in [(0, 2), (2, 3), (3, 7)]:
    source = iterate(data, what=what)
    source.set_state(json.loads(state))
    for index in range(start, stop):
      assert_equal(next(source), expected[index])
    state = json.dumps(source.get_state())  # of what was consumed, not prefetched
    source.close()
  assert json.loads(state) == whole.get_state()


@pytest.mark.parametrize('what', ['batches', 'pictures'])
@pytest.mark.parametrize('hosts', [1, 2, 4])
def test_hosts_make_the_rows_of_one_process(data, what, hosts):
  """And a run that stopped goes on with two hosts, whatever it began with."""
  data = dataclasses.replace(data, rows=8, shards=4, prefetch=2)
  whole = iterate(data, what=what)
  expected = [next(whole) for _ in range(3)]
  size = 8 // hosts
  parts = [range(size * host, size * (host + 1)) for host in range(hosts)]
  sources = [iterate(data, what=what, rows=part) for part in parts]
  for batch in expected[:2]:
    made = [next(source) for source in sources]
    assert_equal({key: np.concatenate([m[key] for m in made]) for key in batch}, batch)
  states = [source.get_state() for source in sources]
  state = json.dumps(functools.reduce(processes.merged, states))
  for part in (slice(0, 4), slice(4, 8)):
    source = iterate(data, what=what, rows=range(8)[part])
    source.set_state(json.loads(state))
    rows = {key: value[part] for key, value in expected[2].items()}
    assert_equal(next(source), rows)
    source.close()
  for source in (whole, *sources):
    source.close()


@pytest.mark.parametrize('what', ['batches', 'pictures'])
@pytest.mark.parametrize('shards', [1, 4, 8])
def test_rows_need_not_lie_together(data, what, shards):
  data = dataclasses.replace(data, rows=8, shards=shards)
  whole, some = iterate(data, what=what), iterate(data, what=what, rows=[1, 4, 5])
  for _ in range(3):
    rows = {key: value[[1, 4, 5]] for key, value in next(whole).items()}
    assert_equal(next(some), rows)


@pytest.mark.parametrize('what', ['batches', 'pictures'])
def test_an_iterator_can_be_set_back(data, what):
  source = iterate(dataclasses.replace(data, prefetch=2), what=what)
  next(source)
  state = source.get_state()
  first = [next(source) for _ in range(3)]
  source.set_state(state)
  for batch in first:
    assert_equal(next(source), batch)
  source.close()


def test_a_fresh_process_goes_on_bitwise(data):
  source = iterate(data)
  next(source)
  state = json.dumps(source.get_state())
  batch = next(source)
  program = (
    'import hashlib, json, sys\n'
    'from transfusion_jax.data.corpus import SourceConfig\n'
    'from transfusion_jax.data.emoji.scenes import EmojiScenesConfig\n'
    'from transfusion_jax.data.forms import FormConfig\n'
    'from transfusion_jax.data.images.image_files import ImagesConfig\n'
    'from transfusion_jax.data.pipeline import DataConfig, batches\n'
    'from transfusion_jax.data.text.tokenizer_config import TokenizerConfig\n'
    f'source = batches({data!r}, patches={PATCHES}, image_shape=(32, 32, 3), seed=0, '
    'rows=range(4))\n'
    'source.set_state(json.loads(sys.argv[1]))\n'
    'batch = next(source)\n'
    'data = b"".join(batch[key].tobytes() for key in sorted(batch))\n'
    'print(hashlib.sha256(data).hexdigest())\n'
    'source.close()\n'
    'del source\n'
  )
  data = b''.join(batch[key].tobytes() for key in sorted(batch))
  result = subprocess.run(
    [sys.executable, '-c', program, state], capture_output=True, text=True, check=True
  )
  assert result.stdout.split() == [hashlib.sha256(data).hexdigest()]


def test_the_seed_decides_the_order(data):
  one, again, other = (next(iterate(data, seed=seed)) for seed in (1, 1, 2))
  assert_equal(one, again)
  assert (one['tokens'] != other['tokens']).any()
  next(iterate(data, seed=2**40))  # any integer will do


def test_rows_are_full(data):
  source = iterate(dataclasses.replace(data, rows=8))
  fills = [packing.fill(next(source)) for _ in range(6)]
  assert np.mean(fills) > 0.97


def test_pictures_are_of_every_kind(data):
  batch = next(iterate(dataclasses.replace(data, rows=20), what='pictures'))
  assert batch['images'].shape == (20, 32, 32, 3)
  assert batch['images'].dtype == np.uint8
  assert len(np.unique(batch['images'].reshape(20, -1), axis=0)) > 15


def test_bytes_as_tokens(data):
  words = dataclasses.replace(data.tokenizer, kind='bytes')
  data = dataclasses.replace(data, tokenizer=words, row_length=512)
  inspection.check(data, PATCHES)
  batch = next(iterate(data))
  start = batch['tokens'][0, 1:40]
  assert bytes(start[start < 256].astype(np.uint8)).decode().strip()


def test_check_finds_short_rows(data):
  inspection.check(data, PATCHES)
  with pytest.raises(ValueError, match='row_length=120 .*scenes.frames'):
    inspection.check(dataclasses.replace(data, row_length=120), PATCHES)
  with pytest.raises(ValueError, match='image_slots=3'):
    inspection.check(dataclasses.replace(data, image_slots=3), PATCHES)
  with pytest.raises(ValueError, match='image_slots=0'):
    inspection.check(dataclasses.replace(data, image_slots=0), PATCHES)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'rows': 0}, 'rows of at least 1 .*found 0'),
    ({'window': 0}, 'window of at least 1'),
    ({'shards': 0}, 'shards of at least 1'),
    ({'rows': 4, 'shards': 3}, 'rows that divide into shards, found rows=4 .*=3'),
    ({'prefetch': -1}, 'prefetch of at least 0'),
    ({'image_slots': -1}, 'image_slots of at least 0'),
    ({'threads': -1}, 'threads of at least 0'),
    ({'broken': 2.0}, 'broken from 0 to 1'),
    ({'sources': {}}, 'expected sources, found none'),
  ],
)
def test_bad_configs(data, changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(data, **changes)
