"""Event files: everything is in them at once, and storage that fails is no end."""

import pytest

from tests.support import event_files
from transfusion_jax.training import storage, tensorboard


def test_numbers_are_on_disk_when_written(tmp_path):
  board = tensorboard.Board(tmp_path, step=None)
  board.write(3, {'step': 3, 'loss': 0.5, 'batches': ['ab'], 'name': 'x', 'kept': 2})
  (file,) = tmp_path.iterdir()
  assert event_files.scalars(file) == [('loss', 3, 0.5), ('kept', 3, 2.0)]


def test_a_resumed_run_makes_the_steps_beyond_forgotten(tmp_path):
  board = tensorboard.Board(tmp_path, step=3)
  board.write(4, {'loss': 0.5})
  board.write(5, {'loss': 0.25})
  (file,) = tmp_path.iterdir()
  starts = [
    each.step for each in event_files.events(file) if each.HasField('session_log')
  ]
  assert starts == [4]
  assert [step for _, step, _ in event_files.scalars(file)] == [4, 5]


def test_storage_that_fails_is_told_and_the_next_numbers_are_written(
  tmp_path, monkeypatch
):
  def full(number):
    raise OSError(28, 'No space left on device')

  board = tensorboard.Board(tmp_path, step=0)
  board.write(1, {'loss': 1.0})
  with monkeypatch.context() as patch:
    patch.setattr(storage.os, 'fsync', full)
    for step in range(2, 30):
      with pytest.raises(OSError, match='No space left'):
        board.write(step, {'loss': 1.0})
  board.write(30, {'loss': 2.0})
  (file,) = tmp_path.iterdir()
  assert event_files.scalars(file) == [('loss', 1, 1.0), ('loss', 30, 2.0)]
