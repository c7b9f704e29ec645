"""`metrics.jsonl`: one JSON object per logged step, exact, and without repeats."""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from transfusion_jax.core import json_text, log
from transfusion_jax.training import processes, storage, tensorboard


class MetricsLog:
  """Appends to the file; a resumed run drops what lies beyond its first step.

  Of several processes one writes, and the others' logs do nothing. What is written is
  shown by TensorBoard, too.
  """

  def __init__(self, path: pathlib.Path, *, step: int, board: pathlib.Path):
    """Begins, or goes on.

    Args:
      path: the file.
      step: the last step that is kept from an earlier part.
      board: folder for TensorBoard.
    """
    self._path = path
    self._unwritten: list[Mapping[str, float | int]] = []
    self._unshown: list[Mapping[str, float | int]] = []
    self.last: Mapping[str, float | int] = {}
    self._board = tensorboard.Board(board, step=step)
    keep(path, until=step)

  def write(self, record: Mapping[str, float | int]) -> None:
    """One line, on disk when this returns; floats are written to the last bit.

    Where storage fails, that is told, and the line is written with the next one.
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
  """One line more, on disk when this returns."""
  storage.append(path, (json.dumps(dict(record)) + '\n').encode())


def keep(path: pathlib.Path, *, until: int) -> None:
  """Drops the records beyond a step, and a line that a kill cut short."""
  if not processes.leads() or not path.exists():
    return
  kept = [record for record in read(path) if record['step'] <= until]
  lines = ''.join(json.dumps(record) + '\n' for record in kept)
  if path.read_text(errors='replace') != lines:
    fresh = path.with_suffix('.tmp')
    fresh.write_text(lines)
    fresh.replace(path)


def records(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  """The records of a file, one after the other; damaged lines are left out.

  They are told of in one warning; a last line that a kill cut short is none of them.
  """
  if not path.exists():
    return
  damaged: list[int] = []
  with path.open('rb') as file:
    for number, line in enumerate(file, 1):
      if not line.strip():
        continue
      try:
        yield json_text.parse_object(line)
      except ValueError:
        damaged += [number] if line.endswith(b'\n') else []
  if damaged:
    log.warning(f'{path}: left out {len(damaged)} damaged lines, first {damaged[0]}')


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """All records of a file; a last line that a kill cut short is left out.

  Raises:
    ValueError: another line is not a JSON object.
  """
  if not path.exists():
    return []
  lines = path.read_text(errors='replace').splitlines()
  records = []
  for number, line in enumerate(lines, start=1):
    try:
      records.append(json.loads(line))
    except json.JSONDecodeError as error:
      if number == len(lines):
        break
      raise ValueError(
        f'expected one JSON object per line, found {line[:40]!r} in line {number} of '
        f'{path}; remove the line'
      ) from error
  return records
