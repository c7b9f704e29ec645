"""Small files of a work directory, damaged in every way: one line, or the same result.

Bits are flipped, values are of other types, what is nested is nested deep, files are
cut, emptied and exchanged. What decides results is sealed, so that nothing changes
silently; what only tells of a run (logs, galleries) is left out, with a warning.
"""

import json
import pathlib
import random
import shutil

import jax
import numpy as np
import pytest

from tests.support import saved_run
from transfusion_jax.core import sealed_json
from transfusion_jax.data import pipeline
from transfusion_jax.evaluation import galleries, report
from transfusion_jax.runs import config, evaluate, restore, run_report, stages
from transfusion_jax.training import lock, mesh, metrics, seal, workdir

DECIDES = (
  *('config.json', 'contents.json', 'saved.json'),
  *('autoencoder/config.json', 'autoencoder/latents.json'),
  *('checkpoints/7/seal.json', 'checkpoints/7/_CHECKPOINT_METADATA'),
  *('checkpoints/7/progress/_strings.json', 'checkpoints/7/state/_METADATA'),
)
TELLS = ('metrics.jsonl', 'evaluation.jsonl', 'facts.json', 'gallery', 'lock')
GALLERY = 'evaluation/7/noise'
WHOLE = (
  b'',
  b'[]',
  b'5',
  b'null',
  b'{}',
  b'"text"',
  b'[' * 100_000,
  b'{"a": ' * 500 + b'1' + b'}' * 500,
  b'\xff\xfe{\x00}\x00',
  b'{"shift": "x", "scale": {}, "psnr": [], "step": "7", "files": 3}',
)
"""Contents that are something else altogether."""


@pytest.fixture(scope='module')
def prose(tmp_path_factory) -> pathlib.Path:
  path = tmp_path_factory.mktemp('prose') / 'prose.jsonl'
  path.write_text('{"text": "a fox"}\n')
  return path


@pytest.fixture(scope='module')
def whole(tmp_path_factory, prose) -> workdir.Workdir:
  """A finished run with every small file that a run can have."""
  made = workdir.Workdir(tmp_path_factory.mktemp('runs') / 'whole')
  run = config.parse(saved_run.page(prose))
  saved_run.save(run, made, saved_run.STEPS)
  nested = workdir.Workdir(made.autoencoder)
  saved_run.save(run.autoencoder.run, nested, (3,))
  channels = run.autoencoder.run.model.latent_channels
  measured = {'shift': [0.5] * channels, 'scale': [1.5] * channels, 'psnr': 20.0}
  sealed_json.write(nested.latents, measured)
  for each in (made, nested):
    each.note_saved(max(map(int, (p.name for p in each.checkpoints.iterdir()))))
  for step in range(1, 8):
    metrics.append(made.metrics, {'step': step, 'loss': 1.0 / step})
  tiles = [report.Tile(np.zeros((4, 4, 3), np.uint8), 'a fox', None)]
  galleries.save(
    made.root / GALLERY, {'shown': report.Gallery('Shown', '', tuple(tiles))}
  )
  record = {'step': 7, 'parameters': 'ema', 'name': 'noise', 'values': {'loss': 0.5}}
  evaluator = {'evaluator': {'kind': 'image_loss'}, 'sampling': {}}
  metrics.append(made.evaluation, {**record, 'seconds': 1.0, 'config': evaluator})
  sealed_json.write(made.facts, {'command': 'x', 'seconds': 2.0, 'facts': {'a': 'b'}})
  with lock.Lock(made.lock):
    stages.claim(made, run)
  return made


@pytest.fixture
def copy(whole, tmp_path) -> workdir.Workdir:
  return workdir.Workdir(pathlib.Path(shutil.copytree(whole.root, tmp_path / 'run')))


def path_of(place: workdir.Workdir, name: str) -> pathlib.Path:
  if name == 'gallery':
    (found,) = (place.root / GALLERY).glob('*.json')
    return found
  return place.root / name


def used(place: workdir.Workdir) -> str:
  """What decides pictures and scores: config and the bits of all parameters."""
  run = restore.run_in(place)
  writer = restore.writer(run, place, mesh.single())
  arrays = seal.arrays(jax.tree.map(lambda x: x, (writer.model, writer.codec)))
  return json.dumps([config.to_dict(run), arrays], sort_keys=True)


def gone_on(place: workdir.Workdir, run: config.Run) -> str:
  """Whether training would go on from here, and from where."""
  stages.check(place, run)
  with lock.Lock(place.lock):
    stages.claim(place, run)
  return json.dumps(pipeline.contents(run.data))


def outcome(act, *arguments) -> str | None:
  """The result; None where there is one line that a user can mend instead."""
  said = ''
  try:
    return act(*arguments)
  except ValueError as error:
    said = str(error)
  assert 'expected' in said
  assert '\n' not in said
  return None


def flipped(data: bytes, rng: random.Random) -> bytes:
  at = rng.randrange(len(data))
  return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


@pytest.fixture(scope='module')
def right(whole) -> dict[str, str]:
  """What the run is used and gone on with, where nothing is damaged."""
  return {'used': used(whole), 'gone on': gone_on(whole, restore.run_in(whole))}


@pytest.mark.slow
@pytest.mark.parametrize('name', DECIDES)
def test_what_decides_is_one_line_or_the_same(whole, right, copy, name):
  run = restore.run_in(whole)
  path, rng = path_of(copy, name), random.Random(name)
  if not path.exists():
    pytest.skip('this version of Orbax has no such file')
  good, lines = path.read_bytes(), 0
  damaged = [flipped(good, rng) for _ in range(3)]
  damaged += [good[: len(good) // 2], *rng.sample(WHOLE, 3)]
  for data in damaged:
    path.write_bytes(data)
    for key, found in (
      ('used', outcome(used, copy)),
      ('gone on', outcome(gone_on, copy, run)),
    ):
      assert found in (None, right[key]), (name, data[:80])
      lines += found is None
    path.write_bytes(good)
  assert lines or name in ('saved.json', 'checkpoints/7/_CHECKPOINT_METADATA')
  assert outcome(used, copy) == right['used']


@pytest.mark.parametrize('name', TELLS)
def test_what_only_tells_of_a_run_is_left_out_with_a_warning(copy, name, monkeypatch):
  told: list[str] = []
  for each in ('warning', 'once_warning'):
    monkeypatch.setattr(evaluate.log, each, told.append)
  path, rng = path_of(copy, name), random.Random(name)
  good = path.read_bytes()
  damaged = [flipped(good, rng) for _ in range(8)] if good else []
  for data in (*damaged, good[: len(good) // 2], *WHOLE):
    path.write_bytes(data)
    told.clear()
    page = run_report.write(copy).read_text()
    assert '<html' in page
    log = name.endswith('.jsonl')
    cut_short = log and not data.endswith(b'\n')  # as by a kill
    assert told or name == 'lock' or cut_short, data[:80]
  with lock.Lock(copy.lock):
    stages.claim(copy, restore.run_in(copy))
