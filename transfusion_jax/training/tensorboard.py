"""TensorBoard event files with curves, images and texts, without TensorFlow.

A file is open only during a write. The library's own writer uses a thread, which a full
disk ends; later writes would then wait for it for ever.
"""

import os
import pathlib
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tensorboardX import record_writer, summary
from tensorboardX.proto import event_pb2

from transfusion_jax.training import storage


class Board:
  """Writer of event files in a folder, which is created by the first write."""

  def __init__(self, folder: pathlib.Path, *, step: int | None):
    """Args: folder; step: last step to show of an earlier part of the run, or None."""
    host = f'{socket.gethostname()}.{os.getpid()}'
    self._path = folder / f'events.out.tfevents.{time.time_ns()}.{host}'
    self._first = [_event(file_version='brain.Event:2')]
    if step is not None:  # TensorBoard drops later steps of earlier files
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._first.append(_event(step=step + 1, session_log=start))

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes the values that are numbers; they are on disk when this returns.

    Raises:
      OSError: storage fails; nothing is written.
    """
    events = [
      _event(step=step, summary=summary.scalar(name, value))
      for name, value in values.items()
      if isinstance(value, int | float) and name != 'step'
    ]
    self._append(events)

  def show(
    self,
    step: int,
    images: Mapping[str, UInt8[np.ndarray, 'h w 3']],
    texts: Mapping[str, str],
  ) -> None:
    """Writes images and texts by name; they are on disk when this returns.

    Args:
      step: step that they belong to.
      images: RGB images by name.
      texts: Markdown by name; TensorBoard does not render HTML in it.

    Raises:
      OSError: storage fails; nothing is written.
    """
    shown = [
      summary.image(tag, each, dataformats='HWC') for tag, each in images.items()
    ]
    shown += [summary.text(tag, text) for tag, text in texts.items()]
    self._append([_event(step=step, summary=each) for each in shown])

  def _append(self, events: list[event_pb2.Event]) -> None:
    storage.append(self._path, b''.join(map(_record, self._first + events)))
    self._first = []


def _event(**what: Any) -> event_pb2.Event:
  return event_pb2.Event(wall_time=time.time(), **what)


def _record(event: event_pb2.Event) -> bytes:
  """TFRecord of an event: length and data, each with its checksum."""
  data = event.SerializeToString()
  length = struct.pack('<Q', len(data))
  return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
  return struct.pack('<I', record_writer.masked_crc32c(data))
