"""Table of a sweep: settings, status and scores of every trial."""

import csv
import dataclasses
import math
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transfusion_jax.core import tree
from transfusion_jax.runs import config
from transfusion_jax.sweeping import ledger as ledger_lib
from transfusion_jax.sweeping import scores
from transfusion_jax.sweeping import trials as trials_lib
from transfusion_jax.training import workdir

_SIGNS = (*'=+-@', *'＝＋－＠', '\t', '\r', '\n')
"""First characters of formulas in spreadsheets."""

_BUCKET = re.compile(r'loss_image_\d')


@dataclasses.dataclass(frozen=True)
class Metric:
  """Metric that trials are ranked by.

  Attributes:
    name: name of a loss or score.
    falls: True if lower is better.
  """

  name: str
  falls: bool

  @classmethod
  def named(cls, text: str) -> 'Metric':
    """Metric from its name, with a minus in front if lower is better."""
    return cls(text.removeprefix('-'), text.startswith('-'))

  def rank(self, row: 'Row') -> tuple[float, int]:
    """Sort key: better rows first; rows without the metric last, by number."""
    value = row.scores.get(self.name, math.nan)
    worth = value if self.falls else -value
    return (math.inf if math.isnan(worth) else worth, row.trial)


@dataclasses.dataclass(frozen=True)
class Row:
  """Row of the table: a trial.

  Attributes:
    trial: number of the trial.
    status: status in the ledger; without one, `elsewhere` if there are scores, else
      `not begun`.
    seconds: duration of all its finished attempts.
    command: command that runs it.
    settings: values of all fields that any trial overrides; None for absent fields.
    changed: fields that this trial overrides.
    scores: losses and scores by name.
  """

  trial: int
  status: str
  seconds: float
  command: Sequence[str]
  settings: Mapping[str, Any]
  changed: Collection[str]
  scores: Mapping[str, float]


def rows(
  trials: Sequence[trials_lib.Trial],
  places: Sequence[workdir.Workdir],
  records: Sequence[ledger_lib.Record],
) -> list[Row]:
  """Rows of a sweep by number; scores are read from the work directories."""
  fields = list(dict.fromkeys(name for each in trials for name in each.overrides))
  made = []
  for trial, place in zip(trials, places, strict=True):
    own = [record for record in records if record.trial == trial.number]
    values = tree.flatten(config.to_dict(trial.run))
    measured = scores.final(trial.run, place)
    other = 'elsewhere' if measured else 'not begun'
    row = Row(
      trial=trial.number,
      status=own[-1].status if own else other,
      seconds=sum((record.seconds or 0.0 for record in own), 0.0),
      command=trial.command(place.root),
      settings={name: _setting(values, name) for name in fields},
      changed=frozenset(trial.overrides),
      scores=measured,
    )
    made.append(row)
  return made


def check(found: Sequence[Row], metric: Metric) -> None:
  """Raises ValueError if there are scores, but none with the metric's name."""
  known = names(found)
  if known and metric.name not in known:
    raise ValueError(
      f'expected --metric to be one of {", ".join(known)}, found {metric.name!r}; name '
      'one, with a minus in front where less is better'
    )


def names(found: Sequence[Row]) -> list[str]:
  """Names of all scores: losses first, losses by noise level last."""
  known = {name for row in found for name in row.scores}
  return sorted(known, key=lambda name: (*_place(name), name))


def headlines(known: Sequence[str]) -> list[str]:
  """Names without losses by noise level."""
  return [name for name in known if not _BUCKET.fullmatch(name)]


def write_csv(path: pathlib.Path, found: Sequence[Row]) -> None:
  """Writes settings and scores as CSV, a line per row; unknown values are empty."""
  known, fields = names(found), list(found[0].settings)
  fresh = path.with_name(path.name + '.tmp')
  with fresh.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(map(cell, ['trial', 'status', 'seconds', *fields, *known]))
    for row in found:
      about = [row.trial, row.status, round(row.seconds, 1)]
      measured = [row.scores.get(name, '') for name in known]
      writer.writerow(map(cell, [*about, *row.settings.values(), *measured]))
  fresh.replace(path)


def cell(value: Any) -> Any:
  """Converts a value to a CSV cell that is never a formula.

  Spreadsheets execute text that begins with certain characters; an apostrophe in front
  prevents that (OWASP, CSV injection).
  """
  if isinstance(value, int | float) and not isinstance(value, bool):
    return value
  text = '' if value is None else str(value)
  return f"'{text}" if text.lstrip(' ').startswith(_SIGNS) else text


def _setting(values: Mapping[tuple[str, ...], Any], field: str) -> Any:
  value = values.get(tuple(field.split('.')))
  return tuple(value) if isinstance(value, list) else value


def _place(name: str) -> tuple[bool, bool]:
  return bool(_BUCKET.fullmatch(name)), not name.startswith('loss')
