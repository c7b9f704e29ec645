"""metrics.jsonl: exact, without repeats, and whole again after a kill."""

import json
import random

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
  for cut in range(1, len(whole.splitlines(keepends=True)[-1]) + 1):
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
  record = json.loads(path.read_text())
  assert len(record.pop('crc')) == 8
  assert record == {'step': 1, 'loss': 2.5}


def test_no_file_is_no_records(path):
  assert metrics.read(path) == []


def test_a_last_line_cut_inside_a_character_is_left_out(path):
  written(path, [1])
  path.write_bytes(path.read_bytes() + '{"stage": "é'.encode()[:-1])
  assert [record['step'] for record in metrics.read(path)] == [1]


def damaged(path, number, seed):
  """Flips a bit of a line."""
  lines, rng = path.read_bytes().splitlines(keepends=True), random.Random(seed)
  at = rng.randrange(len(lines[number]) - 1)
  changed = lines[number][at] ^ (1 << rng.randrange(8))
  lines[number] = lines[number][:at] + bytes([changed]) + lines[number][at + 1 :]
  path.write_bytes(b''.join(lines))


@pytest.mark.parametrize('seed', range(20))
def test_a_flipped_bit_costs_its_line_and_is_told(path, seed, monkeypatch):
  told = []
  monkeypatch.setattr(metrics.log, 'once_warning', told.append)
  monkeypatch.setattr(metrics.log, 'warning', told.append)
  written(path, [1, 2, 3, 4])
  damaged(path, 1, seed)
  assert [record['step'] for record in metrics.read(path)] == [1, 3, 4]
  assert 'line 2' in told[-1]
  metrics.keep(path, until=3)
  assert [record['step'] for record in metrics.read(path)] == [1, 3]
  assert 'set aside' in told[-1]
  assert (path.parent / 'damaged' / path.name).read_bytes()
  assert path.read_bytes().count(b'\n') == 2


def test_what_was_never_written_here_is_left_out(path):
  path.write_text('{"step": 1}\n5\n[]\n\n' + '[' * 9999 + '\n')
  assert metrics.read(path) == []


def test_a_file_that_cannot_be_read_is_one_line(path):
  path.mkdir()
  with pytest.raises(ValueError, match=r'metrics\.jsonl to be readable'):
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
