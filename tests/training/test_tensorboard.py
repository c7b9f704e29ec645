"""Event files: everything is in them at once, and storage that fails is no end."""

import pathlib

import pytest
from tensorboardX.proto import event_pb2

from transfusion_jax.training import storage, tensorboard


def checksum(data: bytes) -> bytes:
  """Of a TFRecord: CRC-32C, turned by 15 bits, and a constant more."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
  crc ^= 0xFFFFFFFF
  turned = (crc >> 15 | crc << 17) + 0xA282EAD8
  return (turned & 0xFFFFFFFF).to_bytes(4, 'little')


def events(path: pathlib.Path) -> list[event_pb2.Event]:
  """What an event file says."""
  data, found, at = path.read_bytes(), [], 0
  while at < len(data):
    length = int.from_bytes(data[at : at + 8], 'little')
    event = data[at + 12 : at + 12 + length]
    assert checksum(data[at : at + 8]) == data[at + 8 : at + 12]
    assert checksum(event) == data[at + 12 + length : at + 16 + length]
    found.append(event_pb2.Event.FromString(event))
    at += length + 16
  return found


def scalars(path: pathlib.Path) -> list[tuple[str, int, float]]:
  """Names, steps and values of an event file."""
  return [
    (value.tag, event.step, value.simple_value)
    for event in events(path)
    for value in event.summary.value
  ]


def test_numbers_are_on_disk_when_written(tmp_path):
  board = tensorboard.Board(tmp_path, step=None)
  board.write(3, {'step': 3, 'loss': 0.5, 'batches': ['ab'], 'name': 'x', 'kept': 2})
  (file,) = tmp_path.iterdir()
  assert scalars(file) == [('loss', 3, 0.5), ('kept', 3, 2.0)]


def test_a_resumed_run_makes_the_steps_beyond_forgotten(tmp_path):
  board = tensorboard.Board(tmp_path, step=3)
  board.write(4, {'loss': 0.5})
  board.write(5, {'loss': 0.25})
  (file,) = tmp_path.iterdir()
  starts = [each.step for each in events(file) if each.HasField('session_log')]
  assert starts == [4]
  assert [step for _, step, _ in scalars(file)] == [4, 5]


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
  assert scalars(file) == [('loss', 1, 1.0), ('loss', 30, 2.0)]
