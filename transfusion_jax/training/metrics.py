"""`metrics.jsonl`: one JSON object per logged step, with exact values, no step twice.

Every line has a checksum (`core/sealed_json.py`). A damaged line is skipped with a
warning; a resumed run moves it to another file. An incomplete last line was cut off
when the run was killed, and is ignored.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from transfusion_jax.core import log, sealed_json
from transfusion_jax.training import processes, storage, tensorboard

NAMED = 5
"""Number of damaged lines listed in a warning."""


class MetricsLog:
  """Writer of the file; a resumed run first drops all lines after its first step.

  Only the first of several processes writes. Values also go to TensorBoard.
  """

  def __init__(self, path: pathlib.Path, *, step: int, board: pathlib.Path):
    """Opens the log.

    Args:
      path: path of the file.
      step: last step to keep of an earlier part of the run.
      board: folder for TensorBoard.
    """
    self._path = path
    self._unwritten: list[Mapping[str, float | int]] = []
    self._unshown: list[Mapping[str, float | int]] = []
    self.last: Mapping[str, float | int] = {}
    self._board = tensorboard.Board(board, step=step)
    keep(path, until=step)

  def write(self, record: Mapping[str, float | int]) -> None:
    """Writes a line, which is on disk when this returns; floats are exact.

    If storage fails, a warning is logged, and the line is written with the next one.
    """
    self.last = record
    if not processes.leads():
      return
    self._unwritten.append(record)
    self._unshown.append(record)
    try:
      while self._unwritten:
        append(self._path, self._unwritten[0])
        self._unwritten.pop(0)
      while self._unshown:
        self._board.write(self._unshown[0]['step'], self._unshown[0])
        self._unshown.pop(0)
    except OSError as error:
      log.warning(f'{self._path} cannot be written to: {error}')


def append(path: pathlib.Path, record: Mapping[str, Any]) -> None:
  """Appends a line, which is on disk when this returns."""
  storage.append(path, sealed_json.line(record))


def keep(path: pathlib.Path, *, until: int) -> None:
  """Drops the records after a step, and an incomplete last line.

  Damaged lines are moved to `damaged/` beside the file.
  """
  if not processes.leads() or not path.exists():
    return
  fresh, changed, damaged = path.with_suffix('.tmp'), False, {}
  with path.open('rb') as lines, fresh.open('wb') as kept:
    for number, line in enumerate(lines, 1):
      record, reason = _read(line)
      if reason:
        damaged[number] = line
      whole = line.endswith(b'\n')
      good = record is not None and record['step'] <= until
      kept.write(line + b'\n' * (not whole) if good else b'')
      changed |= not (good and whole)
  if damaged:
    place = path.parent / 'damaged' / path.name
    storage.append(place, b''.join(damaged.values()))
    log.warning(f'{_named(path, list(damaged))}; set aside in {place}')
  fresh.replace(path) if changed else fresh.unlink()


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """List of the records of a file; see `records`."""
  return list(records(path))


def records(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  """Iterates over the records of a file; none if there is no file.

  Raises:
    ValueError: the file cannot be read.
  """
  if not path.exists():
    return
  damaged: list[int] = []
  try:
    with path.open('rb') as lines:
      for number, line in enumerate(lines, 1):
        record, reason = _read(line)
        damaged += [number] if reason else []
        if record is not None:
          yield record
  except OSError as error:
    raise ValueError(
      f'expected {path} to be readable, found {error.strerror}; check the folder'
    ) from error
  if damaged:
    log.once_warning(f'{_named(path, damaged)}; left out')


def _read(line: bytes) -> tuple[dict[str, Any] | None, str]:
  """Record of a line, or the reason why it is damaged; neither if it is cut off."""
  try:
    return sealed_json.read_line(line.removesuffix(b'\n')), ''
  except sealed_json.Damaged as error:
    return None, str(error) if line.endswith(b'\n') else ''


def _named(path: pathlib.Path, lines: list[int]) -> str:
  some = ', '.join(map(str, lines[:NAMED]))
  more = f' and {len(lines) - NAMED} more' if len(lines) > NAMED else ''
  return f'{path}: not as written in line {some}{more}'
