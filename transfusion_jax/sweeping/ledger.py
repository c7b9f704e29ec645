"""Ledger: the status of every trial on disk, so that a killed sweep can continue.

`plan.json` defines the sweep; `ledger.jsonl` has a line for every start and end of an
attempt. A line is on disk before the sweep acts on it; a line cut off by a power
failure is dropped when the ledger is opened again.
"""

import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from transfusion_jax.core import sealed_json, tree
from transfusion_jax.runs import config
from transfusion_jax.sweeping import trials as trials_lib
from transfusion_jax.training import metrics

Status = Literal['running', 'done', 'stopped', 'failed', 'skipped']
"""`stopped`: saved, to be continued; `failed`: to be retried, or the failure that ended
the sweep; `skipped`: failed and given up, after too many attempts or a wrong config.
"""

FAILURES = ('failed', 'skipped')


@dataclasses.dataclass(frozen=True)
class Record:
  """Record of an attempt.

  Attributes:
    trial: number of the trial.
    overrides: overrides of the trial.
    status: status of the attempt.
    exit_code: exit code of its process, 128 + n if ended by signal n; None while it
      runs.
    seconds: duration; None while it runs.
    scores: final losses and scores by name; empty unless it is done.
  """

  trial: int
  overrides: Mapping[str, Any]
  status: Status
  exit_code: int | None
  seconds: float | None
  scores: Mapping[str, float]


def read(path: pathlib.Path) -> list[Record]:
  """Reads all records, oldest first; damaged lines are skipped with a warning."""
  return [Record(**each) for each in metrics.read(path)]


def last(records: Sequence[Record]) -> dict[int, Record]:
  """Newest record of every trial that has one."""
  return {record.trial: record for record in records}


def done(records: Sequence[Record]) -> set[int]:
  """Numbers of the finished trials."""
  return {n for n, record in last(records).items() if record.status == 'done'}


def failures(records: Sequence[Record], trial: int) -> int:
  """Number of failures of a trial."""
  return sum(r.trial == trial and r.status in FAILURES for r in records)


class Ledger:
  """Ledger of one sweep, locked against other processes."""

  def __init__(self, root: pathlib.Path):
    """Opens the ledger.

    Args:
      root: existing folder of the sweep.

    Raises:
      ValueError: another process has it open.
    """
    self._path, self._plan = root / 'ledger.jsonl', root / 'plan.json'
    self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      os.close(self._file)
      raise ValueError(
        f'expected no other sweep in {root}, found one at work; wait for it, or name '
        'another --workdir'
      ) from error
    whole = self._path.read_bytes()
    os.ftruncate(self._file, whole.rfind(b'\n') + 1)
    self.records = read(self._path)

  def __enter__(self) -> 'Ledger':
    return self

  def __exit__(self, *_) -> None:
    os.close(self._file)

  def begin(self, trials: Sequence[trials_lib.Trial]) -> None:
    """Writes the plan of the sweep, or checks that it is unchanged.

    Raises:
      ValueError: the sweep was started with other overrides or another config.
    """
    plan = _plan(trials)
    if self._plan.exists():
      lines = tree.differences(sealed_json.read(self._plan), plan)
      if lines:
        more = f' (and {len(lines) - 3} more)' if len(lines) > 3 else ''
        raise ValueError(
          f'expected the sweep that {self._plan.parent} was begun with; '
          f'{"; ".join(lines[:3])}{more}; name another --workdir or take it back'
        )
    sealed_json.write(self._plan, plan)

  def add(self, record: Record) -> None:
    """Appends a record, which is on disk when this returns."""
    os.write(self._file, sealed_json.line(dataclasses.asdict(record)))
    os.fsync(self._file)
    self.records.append(record)


def _plan(trials: Sequence[trials_lib.Trial]) -> dict[str, Any]:
  """Plan of a sweep, which may not change: all overrides, and the first config."""
  return {
    'trials': {each.name: json.dumps(each.overrides) for each in trials},
    'first': config.to_dict(trials[0].run),
  }
