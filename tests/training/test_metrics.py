"""metrics.jsonl: exact, without repeats, and whole again after a kill."""

import json

import numpy as np
import pytest

from transfusion_jax.training import metrics


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'metrics.jsonl'


def written(path, steps):
  log = metrics.MetricsLog(path, step=0, board=path.parent / 'board')
  for step in steps:
    log.write({'step': step, 'loss': 1.0 / step})
  return path.read_bytes()


def test_floats_come_back_to_the_last_bit(path):
  values = [float(np.float32(1) / np.float32(3)), 1e-45, 0.1 + 0.2, 12345678.9]
  log = metrics.MetricsLog(path, step=0, board=path.parent / 'board')
  for step, value in enumerate(values):
    log.write({'step': step, 'loss': value})
  assert [record['loss'] for record in metrics.read(path)] == values
  assert np.float32(metrics.read(path)[0]['loss']) == np.float32(1) / np.float32(3)


def test_a_new_run_begins_with_an_empty_file(path):
  written(path, [1, 2, 3])
  metrics.MetricsLog(path, step=0, board=path.parent / 'board')
  assert path.read_bytes() == b''


def test_a_resumed_run_drops_what_lies_beyond_its_step_and_repeats_nothing(path):
  whole = written(path, [1, 2, 3, 4, 5])
  log = metrics.MetricsLog(path, step=3, board=path.parent / 'board')
  assert [record['step'] for record in metrics.read(path)] == [1, 2, 3]
  log.write({'step': 4, 'loss': 1.0 / 4})
  log.write({'step': 5, 'loss': 1.0 / 5})
  assert path.read_bytes() == whole


def test_a_last_line_that_was_cut_short_is_dropped(path):
  whole = written(path, [1, 2, 3])
  for cut in range(1, len(b'{"step": 3, "loss": 0.3333333333333333}\n') + 1):
    path.write_bytes(whole[:-cut])
    log = metrics.MetricsLog(path, step=3, board=path.parent / 'board')
    kept = [record['step'] for record in metrics.read(path)]
    assert kept == ([1, 2, 3] if cut == 1 else [1, 2])
    if cut > 1:
      log.write({'step': 3, 'loss': 1.0 / 3})
    assert path.read_bytes() == whole, cut


def test_every_line_is_on_disk_when_written(path):
  log = metrics.MetricsLog(path, step=0, board=path.parent / 'board')
  log.write({'step': 1, 'loss': 2.5})
  assert json.loads(path.read_text()) == {'step': 1, 'loss': 2.5}


def test_no_file_is_no_records(path):
  assert metrics.read(path) == []


def test_a_last_line_cut_inside_a_character_is_left_out(path):
  path.write_bytes('{"step": 1}\n{"stage": "é'.encode()[:-1])
  assert metrics.read(path) == [{'step': 1}]


def test_a_broken_line_inside_is_an_error(path):
  path.write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
  with pytest.raises(ValueError, match='line 2'):
    metrics.read(path)


def test_lines_that_could_not_be_written_come_with_the_next(tmp_path, monkeypatch):
  told = []
  monkeypatch.setattr(metrics.log, 'warning', told.append)
  path = tmp_path / 'run' / 'metrics.jsonl'
  path.parent.mkdir()
  lines = metrics.MetricsLog(path, step=0, board=tmp_path / 'board')
  path.mkdir()
  lines.write({'step': 1, 'loss': 2.0})
  lines.write({'step': 2, 'loss': 1.5})
  assert len(told) == 2
  assert 'cannot be written to' in told[0]
  path.rmdir()
  lines.write({'step': 3, 'loss': 1.0})
  assert [record['step'] for record in metrics.read(path)] == [1, 2, 3]
  assert lines.last['step'] == 3
