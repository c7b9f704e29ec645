"""Curves from the lines of a training run, thinned while they are read.

A run of a week logs a million lines; a page shows some hundred points of each curve.
Up to `WHOLE` lines nothing is left out. Beyond that, neighbouring lines are put
together, twice as many whenever their number has doubled: of each group the mean, and
the lines with the least and the largest value, so that no peak is lost. Time is linear
in the lines, and memory does not depend on them.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64

WHOLE = 2048
"""Lines that are kept as they are, and groups of longer runs at most."""

NAMES = re.compile(r'(loss|psnr)')
"""Prefixes of the names of curves."""

_FIELDS = ('count', 'sum', 'steps', 'low', 'low_step', 'high', 'high_step')


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
  """Curve of the values logged under one name; steps ascend.

  Attributes:
    steps: of the values.
    values: finite ones: all, or the extremes of every group.
    mean_steps: of the means.
    means: of every group; where all values are kept, these.
  """

  steps: Float64[np.ndarray, ' n']
  values: Float64[np.ndarray, ' n']
  mean_steps: Float64[np.ndarray, ' m']
  means: Float64[np.ndarray, ' m']

  @classmethod
  def whole(cls, steps: Any, values: Any) -> 'Curve':
    """A curve of which nothing is left out."""
    arrays = (np.asarray(steps, np.float64), np.asarray(values, np.float64))
    return cls(*arrays, *arrays)


def thinned(records: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
  """The losses, and the like, of the lines of a run, by name.

  What is no finite number is left out; an image loss of exactly 0 means that nothing
  was seen.

  Args:
    records: lines of `metrics.jsonl`, each with its step, in the order of steps.
  """
  lines: list[Mapping[str, Any]] = []
  groups: dict[str, np.ndarray] = {}
  width, done = 1, 0
  for record in records:
    lines.append(record)
    if len(lines) == 2 * max(WHOLE, width):
      width, done = _add(groups, lines, width, done)
      lines = []
  if not groups and len(lines) <= WHOLE:
    return {name: Curve.whole(*_finite(lines, name)) for name in _names(lines)}
  if lines:
    _add(groups, lines, width, done)
  return {name: _curve(each) for name, each in sorted(groups.items())}


def extremes(
  steps: Float64[np.ndarray, ' n'], values: Float64[np.ndarray, ' n'], points: int
) -> tuple[np.ndarray, np.ndarray]:
  """At most so many points of a line: the extremes of groups, and both ends."""
  if len(steps) <= points:
    return steps, values
  parts = np.array_split(np.arange(len(steps)), max(points // 2 - 1, 1))
  kept = {0, len(steps) - 1}
  for part in parts:
    kept |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
  chosen = np.array(sorted(kept))
  return steps[chosen], values[chosen]


def _names(lines: Iterable[Mapping[str, Any]]) -> list[str]:
  return sorted({key for each in lines for key in each if NAMES.match(key)})


def _column(lines: list[Mapping[str, Any]], name: str) -> np.ndarray:
  """The values of a name as float64; NaN where there is no finite number."""
  found = [each.get(name) for each in lines]
  try:
    values = np.array(found, np.float64)
  except (TypeError, ValueError, OverflowError):  # something else than numbers
    values = np.array([_number(each) for each in found])
  seen = np.isfinite(values)
  if name.startswith('loss_image'):
    seen &= values != 0
  return np.where(seen, values, np.nan)


def _number(value: Any) -> float:
  try:
    return float(value) if isinstance(value, int | float) else math.nan
  except OverflowError:
    return math.nan


def _finite(lines: list[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
  steps, values = _column(lines, 'step'), _column(lines, name)
  seen = np.isfinite(values) & np.isfinite(steps)
  return steps[seen], values[seen]


def _add(
  groups: dict[str, np.ndarray], lines: list[Mapping[str, Any]], width: int, done: int
) -> tuple[int, int]:
  """Puts lines behind the groups of every name, `width` of them together.

  Returns:
    Lines of a group from now on, and groups; no more than `WHOLE`.
  """
  count = -(-len(lines) // width)
  steps = _grouped(_column(lines, 'step'), count, width)
  empty = np.full((len(_FIELDS), done), np.nan)
  for name in {*_names(lines), *groups}:
    values = _grouped(_column(lines, name), count, width)
    where = np.where(np.isfinite(values), steps, np.nan)
    seen = np.isfinite(where)
    low = np.where(seen, values, np.inf).argmin(1)[:, None]
    high = np.where(seen, values, -np.inf).argmax(1)[:, None]
    fields = [seen.sum(1), np.where(seen, values, 0).sum(1)]
    fields += [np.where(seen, where, 0).sum(1)]
    fields += [
      np.take_along_axis(each, at, 1)[:, 0]
      for at in (low, high)
      for each in (values, where)
    ]
    made = np.where(seen.any(1), np.stack(fields), np.nan)
    groups[name] = np.concatenate([groups.get(name, empty), made], axis=1)
  done += count
  while done > WHOLE:
    groups |= {name: _halved(each) for name, each in groups.items()}
    width, done = 2 * width, -(-done // 2)
  return width, done


def _grouped(column: np.ndarray, count: int, width: int) -> np.ndarray:
  missing = count * width - len(column)
  filled = np.concatenate([column, np.full(missing, np.nan)])
  return filled.reshape(count, width)


def _halved(group: np.ndarray) -> np.ndarray:
  """Two neighbouring groups as one."""
  if group.shape[1] % 2:
    group = np.pad(group, ((0, 0), (0, 1)), constant_values=np.nan)
  one, other = group[:, ::2], group[:, 1::2]
  made = np.where(np.isnan(one), other, np.where(np.isnan(other), one, one + other))
  for field, better in (('low', np.less), ('high', np.greater)):
    rows = [_FIELDS.index(field), _FIELDS.index(f'{field}_step')]
    first = better(one[rows[0]], other[rows[0]]) | np.isnan(other[rows[0]])
    made[rows] = np.where(first, one[rows], other[rows])
  return made


def _curve(group: np.ndarray) -> Curve:
  field = dict(zip(_FIELDS, group[:, np.isfinite(group[0])], strict=True))
  steps = np.concatenate([field['low_step'], field['high_step']])
  values = np.concatenate([field['low'], field['high']])
  steps, first = np.unique(steps, return_index=True)
  means = field['sum'] / field['count']
  return Curve(steps, values[first], field['steps'] / field['count'], means)
