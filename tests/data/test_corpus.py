"""Corpora on disk: from files to packed rows, the same on any number of hosts."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.data import corpus, documents, epochs, inspection, pipeline
from transfusion_jax.data.images import image_files
from transfusion_jax.data.rows import packing
from transfusion_jax.training import processes

PATCHES = 4
SIZE = image_files.ImagesConfig(8, 8, 'random', smallest=1, most_pixels=10**6)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  """Forty pictures with captions, three of them broken."""
  folder = tmp_path_factory.mktemp('photos')
  rng = np.random.default_rng(0)
  for index in range(40):
    pixels = rng.integers(0, 256, (12, 20, 3), np.uint8)
    data = image_files.encode_png(pixels)
    data = data[:40] if index % 15 == 4 else data
    (folder / f'{index:03d}.png').write_bytes(data)
    (folder / f'{index:03d}.txt').write_text(f'picture {index}')
  return str(folder)


@pytest.fixture(scope='module')
def stories(tmp_path_factory):
  """Sixty texts, some longer than a row, one of them malformed."""
  file = tmp_path_factory.mktemp('stories') / 'stories.jsonl'
  lines = [json.dumps({'text': f'{k}: ' + 'la ' * (k * 7 % 50)}) for k in range(60)]
  lines[17] = '{"text": '
  file.write_text('\n'.join(lines) + '\n')
  return str(file)


@pytest.fixture
def mixed(data, photos, stories):
  return dataclasses.replace(
    data,
    sources={
      'photos': tiny.source('folder', photos, weights=(1.0, 3.0), since=(0, 3)),
      'stories': tiny.source('json_lines', stories, form='text', epochs=3),
    },
    tokenizer=dataclasses.replace(data.tokenizer, kind='bytes'),
    images=SIZE,
    rows=8,
    row_length=96,
    image_slots=5,
    broken=0.2,
    shards=8,
    window=6,
  )


def iterate(config, *, rows=None, seed=0):
  rows = range(config.rows) if rows is None else rows
  return pipeline.batches(
    config, patches=PATCHES, image_shape=(8, 8, 3), seed=seed, rows=rows
  )


def assert_equal(one, other):
  assert one.keys() == other.keys()
  for key in one:
    np.testing.assert_array_equal(one[key], other[key], key)


@pytest.mark.parametrize('threads', [0, 3])
def test_hosts_may_come_and_go_within_a_mixed_packed_epoch(mixed, threads):
  """One host, two, four and one again: the batches of one host that never stopped."""
  whole = iterate(mixed)
  expected = [next(whole) for _ in range(12)]
  state, step = None, 0
  mixed = dataclasses.replace(mixed, threads=threads, prefetch=2)
  for hosts in (1, 2, 4, 1):
    size = mixed.rows // hosts
    parts = [range(size * host, size * (host + 1)) for host in range(hosts)]
    sources = [iterate(mixed, rows=part) for part in parts]
    for source in sources:
      if state is not None:
        source.set_state(json.loads(state))
    for _ in range(3):
      made = [next(source) for source in sources]
      batch = {key: np.concatenate([each[key] for each in made]) for key in made[0]}
      assert_equal(batch, expected[step])
      step += 1
    states = [source.get_state() for source in sources]
    state = json.dumps(functools.reduce(processes.merged, states))
    for source in sources:
      source.close()
  assert json.loads(state) == whole.get_state()


def test_rows_hold_both_sources_and_no_broken_documents(mixed):
  source = iterate(mixed)
  rows = [next(source) for _ in range(6)]
  text = b''.join(
    bytes(row[row < 256].astype(np.uint8)) for batch in rows for row in batch['tokens']
  ).decode()
  assert 'picture 5' in text
  assert 'la la' in text
  assert not any(f'picture {k}' in text for k in (4, 19, 34))
  assert np.mean([packing.fill(batch) for batch in rows]) > 0.9


def test_the_seed_decides_order_and_crops(mixed):
  one, again, other = (next(iterate(mixed, seed=seed)) for seed in (1, 1, 2))
  assert_equal(one, again)
  assert (one['tokens'] != other['tokens']).any()


def test_a_source_ends_after_its_epochs(mixed, stories):
  stories = dataclasses.replace(mixed.sources['stories'], epochs=1)
  source = iterate(dataclasses.replace(mixed, sources={'stories': stories}))
  fills = [packing.fill(next(source)) for _ in range(20)]
  assert fills[0] > 0.5
  assert fills[-1] == 0.0


@pytest.mark.parametrize('policy', ['split', 'truncate', 'refuse'])
def test_long_texts(mixed, policy):
  stories = dataclasses.replace(mixed.sources['stories'], epochs=1)
  config = dataclasses.replace(
    mixed, sources={'stories': stories}, long_texts=policy, broken=1.0
  )
  source = iterate(config)
  total = sum(
    int(np.sum(batch['end'] > 0)) for batch in (next(source) for _ in range(20))
  )
  lengths = [len(f'{k}: ' + 'la ' * (k * 7 % 50)) + 2 for k in range(60) if k != 17]
  kept = {
    'split': lengths,
    'truncate': [min(length, 96) for length in lengths],
    'refuse': [length for length in lengths if length <= 96],
  }
  assert total == sum(kept[policy])


def test_held_out_records_are_the_rest(photos, mixed):
  """With generator 0 no caption is dropped; 3 of 40 pictures are broken."""
  source, found = tiny.source('folder', photos, heldout=0.1), {}
  for split in ('train', 'test'):
    opened = corpus.open_collection(source, split, scenes=mixed.scenes, pictures=SIZE)
    said = [told(opened, index) for index in range(len(opened))]
    found[split] = {each for each in said if each.startswith('picture')}
    for broken in set(said) - found[split]:
      assert photos in broken
  assert not found['train'] & found['test']
  assert len(found['train'] | found['test']) == 37
  assert found['test'] == {'picture 0', 'picture 10', 'picture 20', 'picture 30'}


def told(opened, index):
  """The caption of a document, or what is wrong with it."""
  try:
    document = opened.document(index, np.random.default_rng(0))
  except ValueError as error:
    return str(error)
  return next(each.text for each in document if isinstance(each, documents.Text))


def test_contents_change_with_the_files(mixed, tmp_path):
  (tmp_path / 'a.jsonl').write_text('{"text": "one"}\n')
  source = tiny.source('json_lines', str(tmp_path), form='text')
  config = dataclasses.replace(mixed, sources={'notes': source})
  before = pipeline.contents(config)
  assert before == pipeline.contents(config)
  (tmp_path / 'b.jsonl').write_text('{"text": "two"}\n')
  corpus.open_records.cache_clear()  # as in a new process
  after = pipeline.contents(config)
  assert {key for key in before if before[key] != after[key]} == {
    'data.sources.notes.path'
  }


def test_shares_are_told(mixed):
  sources = {
    'photos': dataclasses.replace(
      mixed.sources['photos'], weights=(3.0, 1.0), since=(0, 9)
    ),
    'stories': dataclasses.replace(mixed.sources['stories'], epochs=0),
  }
  source = iterate(dataclasses.replace(mixed, sources=sources))
  for _ in range(9):
    next(source)
  assert pipeline.shares(source.get_state()) == pytest.approx(
    {'photos': 0.75, 'stories': 0.25}, abs=0.06
  )
  for _ in range(9):
    next(source)
  assert pipeline.shares(source.get_state()) == pytest.approx(
    {'photos': 0.5, 'stories': 0.5}, abs=0.05
  )


def test_pictures_alone_leave_text_and_broken_ones_out(mixed):
  source = pipeline.pictures(mixed, split='train', seed=0, rows=range(8))
  for _ in range(6):
    assert next(source)['images'].shape == (8, 8, 8, 3)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'path': ''}, "expected a path for every kind .*kind='folder' and path=''"),
    ({'kind': 'emoji_scenes'}, 'expected a path for every kind but emoji_scenes'),
    ({'weights': (1.0, 2.0)}, r'weights=\(1.0, 2.0\) and since=\(0,\)'),
    ({'since': (5,)}, 'ascending from 0'),
    ({'weights': (0.0,)}, 'one above'),
    ({'heldout': 0.7}, 'heldout from 0 to 0.5'),
    ({'epochs': -1}, 'epochs >= 0'),
  ],
)
def test_bad_sources(photos, changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(tiny.source('folder', photos), **changes)


def test_sources_that_are_not_there_are_found_at_once(mixed, tmp_path):
  empty = dataclasses.replace(
    mixed, sources={'none': tiny.source('folder', str(tmp_path))}
  )
  with pytest.raises(ValueError, match='expected files that end in'):
    inspection.check(empty, PATCHES)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'form': {'text': 'captoin'}},
      "photos: expected the field 'captoin' .* text .*; name",
    ),
    ({'tokenizer': {'kind': 'words'}}, "found 'words', which is for emoji scenes"),
    (
      {'image_slots': 0},
      r'photos: expected documents for this stage, found none among 40, the last: '
      r'.*\.png: a document with an image.* data.image_slots',
    ),
    ({'images': {'smallest': 50}}, r'photos: .*png: .* sides of at least 50'),
  ],
)
def test_what_would_end_a_run_is_found_before_it(mixed, changes, message):
  sources = dict(mixed.sources)
  if form := changes.get('form'):
    photos = sources['photos']
    form = dataclasses.replace(photos.form, **form)
    sources['photos'] = dataclasses.replace(photos, form=form)
  sections = {
    name: dataclasses.replace(getattr(mixed, name), **value)
    for name, value in changes.items()
    if name in ('tokenizer', 'images')
  }
  if 'image_slots' in changes:
    sections['image_slots'] = changes['image_slots']
  inspection.check(mixed, PATCHES)
  with pytest.raises(ValueError, match=message):
    inspection.check(dataclasses.replace(mixed, sources=sources, **sections), PATCHES)


def test_sources_of_one_size_go_in_orders_of_their_own(photos, mixed):
  opened = pipeline.collections(mixed, 'train')['photos']
  one, again, other = (
    [epochs.Endless(opened, name=name, seed=0)._order[k] for k in range(20)]
    for name in ('one', 'one', 'other')
  )
  assert one == again != other


@pytest.mark.parametrize('since', [(0, 4), (0, 9)])
def test_some_source_has_a_weight_at_every_step(mixed, since):
  photos, stories = mixed.sources.values()
  ends = dataclasses.replace(photos, weights=(1.0, 0.0), since=since)
  begins = dataclasses.replace(stories, weights=(0.0, 1.0), since=(0, 5))
  sources = {'photos': ends, 'stories': begins}
  if since == (0, 9):
    dataclasses.replace(mixed, sources=sources)
  else:
    with pytest.raises(ValueError, match='above 0 at every step, found none at step 4'):
      dataclasses.replace(mixed, sources=sources)


def test_pictures_do_not_wait_for_their_weight(mixed):
  photos = dataclasses.replace(
    mixed.sources['photos'], weights=(0.0, 1.0), since=(0, 100)
  )
  sources = {**mixed.sources, 'photos': photos}
  config = dataclasses.replace(mixed, sources=sources)
  source = pipeline.pictures(config, split='train', seed=0, rows=range(8))
  assert next(source)['images'].any()
