"""`metrics.jsonl`: one JSON object per logged step, exact, and without repeats."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from transfusion_jax.training import processes


class MetricsLog:
  """Appends to the file; a resumed run drops what lies beyond its first step.

  Of several processes one writes, and the others' logs do nothing.
  """

  def __init__(self, path: pathlib.Path, *, step: int):
    """Args: path: the file; step: the last step that is kept from an earlier part."""
    self._path = path
    if processes.leads():
      self._truncate(step)

  def write(self, record: Mapping[str, float | int]) -> None:
    """One line, on disk when this returns; floats are written to the last bit."""
    if not processes.leads():
      return
    with self._path.open('a') as file:
      file.write(json.dumps(dict(record)) + '\n')
      file.flush()
      os.fsync(file.fileno())

  def _truncate(self, step: int) -> None:
    kept = [record for record in read(self._path) if record['step'] <= step]
    lines = ''.join(json.dumps(record) + '\n' for record in kept)
    if not self._path.exists() or self._path.read_text(errors='replace') != lines:
      fresh = self._path.with_suffix('.tmp')
      fresh.write_text(lines)
      fresh.replace(self._path)


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
