"""Reader of TensorBoard's event files."""

import pathlib

from tensorboardX.proto import event_pb2


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
