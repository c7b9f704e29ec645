"""What has become of every trial, kept so that a sweep that was killed goes on.

`plan.json` says what the sweep is, and `ledger.jsonl` has a line for every attempt that
begins or ends. A line is written in one piece and is on disk before anything follows
from it; one that a power cut left half is dropped when the ledger is opened again.
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
"""`stopped`: saved, to be gone on with; `failed`: to be tried again, or what ended the
sweep; `skipped`: failed and left, since it has been tried often enough or never can be.
"""

FAILURES = ('failed', 'skipped')


@dataclasses.dataclass(frozen=True)
class Record:
  """What is known of an attempt.

  Attributes:
    trial: its number.
    overrides: what makes it another run than the other trials.
    status: what became of it.
    exit_code: of its process, 128 + n where signal n ended it; None while it runs.
    seconds: that it took; None while it runs.
    scores: final losses and scores by name; empty unless it is done.
  """

  trial: int
  overrides: Mapping[str, Any]
  status: Status
  exit_code: int | None
  seconds: float | None
  scores: Mapping[str, float]


def read(path: pathlib.Path) -> list[Record]:
  """All records, oldest first; ValueError if a line that is not the last is broken."""
  return [Record(**each) for each in metrics.read(path)]


def last(records: Sequence[Record]) -> dict[int, Record]:
  """The newest record of every trial that has one."""
  return {record.trial: record for record in records}


def done(records: Sequence[Record]) -> set[int]:
  """Trials that are through."""
  return {n for n, record in last(records).items() if record.status == 'done'}


def failures(records: Sequence[Record], trial: int) -> int:
  """How often a trial has failed."""
  return sum(r.trial == trial and r.status in FAILURES for r in records)


class Ledger:
  """The ledger of one sweep, which nobody else writes meanwhile."""

  def __init__(self, root: pathlib.Path):
    """Opens it.

    Args:
      root: the folder of the sweep, which must be there.

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
    """Writes down what the sweep is, or checks that it still is that.

    Raises:
      ValueError: it was begun with other overrides or on top of another config.
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
    """Writes a record, which is on disk when this returns."""
    os.write(self._file, sealed_json.line(dataclasses.asdict(record)))
    os.fsync(self._file)
    self.records.append(record)


def _plan(trials: Sequence[trials_lib.Trial]) -> dict[str, Any]:
  """What may not change: all overrides, and the rest as the first trial has it."""
  return {
    'trials': {each.name: json.dumps(each.overrides) for each in trials},
    'first': config.to_dict(trials[0].run),
  }
