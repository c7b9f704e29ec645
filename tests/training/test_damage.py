"""Damaged checkpoints: noticed, set aside, and the newest good one is gone on from."""

import dataclasses
import json
import os
import pathlib
import random
import shutil
import threading

import jax
import pytest

from benchmarks import survival
from tests.support import checkpoints
from transfusion_jax.core import tree
from transfusion_jax.training import checkpoint, checkpoint_reader, seal, state

FILES = ('seal.json', 'state/manifest.ocdbt', 'state/_METADATA', 'progress/_METADATA')


@pytest.fixture(scope='module')
def three(tmp_path_factory) -> pathlib.Path:
  """Three sealed steps."""
  directory = tmp_path_factory.mktemp('run') / 'checkpoints'
  now, _ = checkpoints.begin()
  with checkpoint.Checkpoints(directory, checkpoints.keep(3)) as kept:
    for _ in range(3):
      kept.save(now, checkpoints.PROGRESS)
      now = checkpoints.ADVANCE(now)
  return directory


@pytest.fixture
def copy(three, tmp_path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(three, tmp_path / 'run' / 'checkpoints'))


def restored(directory: pathlib.Path) -> checkpoint_reader.Restored | None:
  with checkpoint.Checkpoints(directory, checkpoints.keep(3)) as kept:
    return kept.restore(checkpoints.places((1, 4, 2, 1)))


def largest(folder: pathlib.Path) -> pathlib.Path:
  files = [path for path in folder.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def cut(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
  'a bit of the arrays': lambda step: survival.flip(largest(step), random.Random(0)),
  'a bit of the progress': lambda step: survival.flip(
    step / 'progress' / '_strings.json', random.Random(0)
  ),
  'arrays cut short': lambda step: cut(largest(step)),
  'arrays deleted': lambda step: largest(step).unlink(),
  'half deleted': lambda step: shutil.rmtree(step / 'state'),
  'no progress': lambda step: shutil.rmtree(step / 'progress'),
  'empty folder': lambda step: [shutil.rmtree(step), step.mkdir()],
  **{f'{name} cut': lambda step, name=name: cut(step / name) for name in FILES},
  **{
    f'no {name}': lambda step, name=name: (step / name).unlink() for name in FILES[1:]
  },
}


@pytest.mark.parametrize('name', ['2', '1'])
def test_a_folder_that_holds_another_step_is_damaged(copy, name):
  shutil.rmtree(copy / '3')
  shutil.copytree(copy / name, copy / '3')
  with pytest.raises(ValueError, match=f'the folder 3 holds step {name}'):
    checkpoint_reader.arrays(copy, 3)
  wanted = {'params': checkpoints.places((1, 4, 2, 1)).params}
  with pytest.raises(ValueError, match=f'the folder 3 holds step {name}'):
    checkpoint_reader.read(copy, wanted, 3)
  assert int(restored(copy).state.step) == 2
  assert (copy.parent / 'damaged' / '3').exists()


@pytest.mark.parametrize('name', ['seal.json', 'state/_METADATA', 'more'])
def test_what_would_be_waited_for_is_damage(copy, name):
  (copy / '3' / name).unlink(missing_ok=True)
  os.mkfifo(copy / '3' / name)
  with pytest.raises(ValueError, match='neither a file nor a folder'):
    checkpoint_reader.arrays(copy, 3)
  assert int(restored(copy).state.step) == 2


def test_a_step_that_was_rotated_away_is_not_called_damaged(copy, monkeypatch):
  """It goes between being found the newest and being read; a newer one is there."""
  loaded, gone = checkpoint_reader.loaded, []

  def rotated(reader, step, wanted):
    if not gone:
      gone.append(step)
      shutil.rmtree(copy / str(step))
    return loaded(reader, step, wanted)

  monkeypatch.setattr(checkpoint_reader, 'loaded', rotated)
  wanted = {'params': checkpoints.places((1, 4, 2, 1)).params}
  checkpoint_reader.read(copy, wanted)
  assert gone == [3]
  gone.clear()
  with pytest.raises(ValueError, match='step 2 .* removed meanwhile; name a newer'):
    checkpoint_reader.read(copy, wanted, 2)


def test_another_model_is_found_before_anything_is_written(copy):
  checkpoint_reader.check_state(copy, checkpoints.places((1, 4, 2, 1)))
  cut(copy / '3' / 'seal.json')
  checkpoint_reader.check_state(copy, checkpoints.places((1, 4, 2, 1)))
  found = checkpoints.places((1, 4, 2, 1))
  fields = {each.name: getattr(found, each.name) for each in dataclasses.fields(found)}
  shape = jax.ShapeDtypeStruct((64, 33), 'float32')
  fields['params'] = {**found.params, 'matrix': shape}
  other = tree.likeness(state.TrainState, **fields)
  with pytest.raises(ValueError, match='step 2 .* params/matrix'):
    checkpoint_reader.check_state(copy, other)


@pytest.mark.parametrize('name', DAMAGES)
def test_the_step_before_is_gone_on_from(copy, caplog, name):
  DAMAGES[name](copy / '3')
  found = restored(copy)
  assert int(found.state.step) == 2
  assert found.progress == checkpoints.PROGRESS
  assert not (copy / '3').exists()
  assert (copy.parent / 'damaged' / '3').exists()


def test_bits_that_are_flipped_anywhere_are_found_or_make_no_difference(copy):
  rng, good = random.Random(1), seal.arrays(restored(copy).state)
  files = [path for path in (copy / '3').rglob('*') if path.is_file()]
  detected = 0
  for path in rng.choices([path for path in files if path.stat().st_size], k=12):
    before = path.read_bytes()
    survival.flip(path, rng)
    found = restored(copy)
    if int(found.state.step) == 3:
      assert (seal.arrays(found.state), found.progress) == (good, checkpoints.PROGRESS)
    else:
      detected += 1
      (copy.parent / 'damaged' / '3').rename(copy / '3')
    path.write_bytes(before)
  assert detected


def test_two_that_are_damaged_are_both_set_aside_and_numbered(copy, three):
  for _ in range(2):
    for step in ('2', '3'):
      shutil.copytree(three / step, copy / step, dirs_exist_ok=True)
      largest(copy / step).unlink()
    assert int(restored(copy).state.step) == 1
  names = sorted(path.name for path in (copy.parent / 'damaged').iterdir())
  assert names == ['2', '2-2', '3', '3-2']


def test_nothing_is_moved_where_no_step_is_good(copy):
  for step in ('1', '2', '3'):
    largest(copy / step).unlink()
  with pytest.raises(ValueError, match='found 3 damaged; step 3: .* is missing'):
    restored(copy)
  assert (copy / '3').exists()


def test_a_step_that_is_read_for_sampling_must_be_good(copy):
  survival.flip(largest(copy / '3'), random.Random(0))
  wanted = {'params': checkpoints.places((1, 4, 2, 1)).params}
  with pytest.raises(ValueError, match='found it damaged.*name another --step'):
    checkpoint_reader.read(copy, wanted)
  assert checkpoint_reader.read(copy, wanted, 2).state.params is not None


def test_a_step_whose_writer_died_before_the_seal_is_checked_by_its_arrays(copy):
  (copy / '3' / 'seal.json').unlink()
  assert int(restored(copy).state.step) == 3


def test_another_model_is_not_damage(copy):
  other = checkpoints.places((1, 4, 2, 1))
  params = {**other.params, 'new': other.params['bias']}
  wanted = tree.likeness(
    state.TrainState,
    step=other.step,
    params=params,
    ema=other.ema,
    opt_state=other.opt_state,
    key=other.key,
    norm=other.norm,
  )
  with (
    pytest.raises(ValueError, match=r'missing \+: \+ params/new float32\[32\]'),
    checkpoint.Checkpoints(copy, checkpoints.keep(3)) as kept,
  ):
    kept.restore(wanted)
  assert (copy / '3').exists()


def test_saves_that_fail_are_told_and_training_goes_on(tmp_path, caplog):
  directory = tmp_path / 'run' / 'checkpoints'
  now, wanted = checkpoints.begin()
  with checkpoint.Checkpoints(directory, checkpoints.keep(3)) as kept:
    kept.save(now, checkpoints.PROGRESS)
    kept.wait()
    shutil.move(tmp_path / 'run', tmp_path / 'elsewhere')
    (tmp_path / 'run').write_text('in the way')
    now = checkpoints.ADVANCE(now)
    kept.save(now, checkpoints.PROGRESS)
    assert 'exists' in kept.trouble or 'directory' in kept.trouble
    (tmp_path / 'run').unlink()
    now = checkpoints.ADVANCE(now)
    kept.save(now, checkpoints.PROGRESS)
    kept.wait()
    assert not kept.trouble
    assert int(kept.restore(wanted).state.step) == 3


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
  now, _ = checkpoints.begin()
  full = shutil.disk_usage(tmp_path)._replace(free=1000)
  with checkpoint.Checkpoints(tmp_path / 'checkpoints', checkpoints.keep(3)) as kept:
    with monkeypatch.context() as patch:
      patch.setattr(shutil, 'disk_usage', lambda _: full)
      kept.save(now, checkpoints.PROGRESS)
    assert 'MiB are needed, 0.0 MiB are free' in kept.trouble
    kept.save(now, checkpoints.PROGRESS)
    kept.wait()
    assert kept.steps() == [1]


class Slow:
  """A save that storage is not done with."""

  def __init__(self, response):
    self.response, self.written = response, threading.Event()

  def result(self):
    assert self.written.wait(timeout=60), 'somebody waited for storage'
    return self.response.result()


def test_slow_storage_holds_up_nothing_but_the_next_save(tmp_path, monkeypatch):
  now, _ = checkpoints.begin()
  with checkpoint.Checkpoints(tmp_path / 'checkpoints', checkpoints.keep(3)) as kept:
    begun, real = [], kept._checkpointer.save_checkpointables_async

    def save(*arguments, **options):
      begun.append(Slow(real(*arguments, **options)))
      return begun[-1]

    orbax = kept._checkpointer
    monkeypatch.setattr(orbax, 'save_checkpointables_async', save)
    monkeypatch.setattr(
      orbax, 'is_saving_in_progress', lambda: not begun[-1].written.is_set()
    )
    kept.save(now, checkpoints.PROGRESS)
    kept.poll()
    assert not (tmp_path / 'checkpoints/1' / seal.FILE).exists()
    begun[0].written.set()
    kept.poll()
    assert (tmp_path / 'checkpoints/1' / seal.FILE).exists()
    now = checkpoints.ADVANCE(now)
    kept.save(now, checkpoints.PROGRESS)
    assert not (tmp_path / 'checkpoints/2' / seal.FILE).exists()
    threading.Timer(0.1, begun[1].written.set).start()
    kept.save(checkpoints.ADVANCE(now), checkpoints.PROGRESS)
    assert (tmp_path / 'checkpoints/2' / seal.FILE).exists()
    begun[2].written.set()


def test_what_stays(tmp_path):
  config = checkpoint.CheckpointConfig(1, newest=1, multiples=4, best=1, score='x')
  now, _ = checkpoints.begin()
  scores = {1: 0.3, 2: 0.9, 3: None, 4: 0.1, 5: 0.5, 6: 0.2}
  with checkpoint.Checkpoints(tmp_path / 'checkpoints', config) as kept:
    for step in scores:
      kept.save(now, checkpoints.PROGRESS, scores[step])
      now = checkpoints.ADVANCE(now)
    assert kept.steps() == [2, 4, 6]


def test_the_seal_does_not_depend_on_the_mesh():
  now, _ = checkpoints.begin()
  whole = jax.tree.map(lambda leaf: leaf.sharding, checkpoints.places((1, 4, 2, 1)))
  assert seal.arrays(now) == seal.arrays(jax.device_put(now, whole))
  json.dumps(seal.arrays(now))
