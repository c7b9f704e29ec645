"""Plots of a sweep: parallel coordinates over all fields, and one plot per field."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from transfusion_jax.evaluation import plots
from transfusion_jax.sweeping import table

EVEN = 6
"""Largest number of evenly spaced values; more numbers get a continuous scale."""

_ROW = 0.62
"""Smallest distance between parallel coordinates, in inches."""

_SPREAD = 0.03
"""Width over which trials with the same value are spread."""

_BEHIND = {'facecolor': plots.PAPER_COLOUR, 'edgecolor': 'none', 'alpha': 0.8, 'pad': 1}
"""Background of text that lines would cross."""


@dataclasses.dataclass(frozen=True)
class Axis:
  """Axis of a field or a metric, from 0 to 1.

  Attributes:
    places: position of every value.
    ticks: positions and their labels.
    even: True if values are evenly spaced, so that many trials may share one.
  """

  places: Mapping[Any, float]
  ticks: Sequence[tuple[float, str]]
  even: bool


def axis(values: Sequence[Any], *, most: int = EVEN) -> Axis:
  """Axis of values of any type; logarithmic if positive numbers span a decade.

  Args:
    values: at least one value; may contain repetitions.
    most: largest number of evenly spaced values.
  """
  distinct = sorted(set(values), key=lambda each: (not _is_number(each), str(each)))
  if all(map(_is_number, distinct)):
    distinct.sort()
    if len(distinct) > most:
      return _measured(distinct)
  last = len(distinct) - 1
  places = {each: k / last if last else 0.5 for k, each in enumerate(distinct)}
  ticks = [(place, _text(each)) for each, place in places.items()]
  return Axis(places, ticks, even=True)


def varied(rows: Sequence[table.Row]) -> list[str]:
  """Fields whose values differ between rows."""
  return [
    name for name in rows[0].settings if len({r.settings[name] for r in rows}) > 1
  ]


def colours(ranked: Sequence[table.Row]) -> dict[int, Any]:
  """Colour of every trial, by rank."""
  return plots.scale([row.trial for row in ranked], plots.LEVELS)


def parallel(ranked: Sequence[table.Row], metric: str) -> str:
  """Parallel coordinates: a line per trial through its fields, ending at its score.

  Args:
    ranked: rows that have the score, best first.
    metric: name of the score.
  """
  fields = varied(ranked)
  axes = [axis([row.settings[name] for row in ranked]) for name in fields]
  axes.append(axis([row.scores[metric] for row in ranked], most=1))
  colour = colours(ranked)

  def fill(canvas) -> None:
    drawing = canvas.subplots()
    for k, (name, each) in enumerate(zip((*fields, metric), axes, strict=True)):
      drawing.plot([0, 1], [k, k], color=plots.TEXT_COLOUR, linewidth=0.8, alpha=0.4)
      _write(drawing, name, x=0.0, y=k, up=6, fontsize=9, weight='bold')
      for place, text in each.ticks:
        _write(drawing, text, x=place, y=k, up=-14, fontsize=8, ha='center')
    for place, row in reversed(list(enumerate(ranked))):
      values = (*(row.settings[name] for name in fields), row.scores[metric])
      offset = _SPREAD * (place / max(len(ranked) - 1, 1) - 0.5)
      x = [a.places[v] + a.even * offset for a, v in zip(axes, values, strict=True)]
      width, alpha = (1.4, 0.8) if place else (3.0, 1.0)
      drawing.plot(
        x, range(len(x)), color=colour[row.trial], linewidth=width, alpha=alpha,
        marker='o', markersize=3,
      )  # fmt: skip
    drawing.set(xlim=(-0.05, 1.05), ylim=(len(axes) - 0.4, -0.5))
    drawing.axis('off')

  width, height = plots.SIZE
  return plots.svg('sweep/parallel', (width, max(_ROW * len(axes), 2 * height)), fill)


def alone(ranked: Sequence[table.Row], field: str, metric: str) -> str:
  """Plot of the score over one field; trials that differ only in this field are joined.

  If there are such trials, the others are drawn faint.

  Args:
    ranked: rows that have the score, best first.
    field: name of the field.
    metric: name of the score.
  """
  along = axis([row.settings[field] for row in ranked])
  colour, groups = colours(ranked), _alike(ranked, field)
  joined = {row.trial for rows in groups for row in rows}

  def point(row: table.Row) -> tuple[float, float]:
    return along.places[row.settings[field]], row.scores[metric]

  def fill(canvas) -> None:
    drawing = canvas.subplots()
    for rows in groups:
      x, y = zip(*sorted(map(point, rows)), strict=True)
      drawing.plot(x, y, color=plots.TEXT_COLOUR, linewidth=0.8, alpha=0.4, zorder=1)
    for row in ranked:
      look = {'alpha': 1.0 if row.trial in joined or not joined else 0.4}
      drawing.scatter(*point(row), s=28, color=colour[row.trial], zorder=2, **look)
      drawing.annotate(
        row.trial, point(row), (5, 3), textcoords='offset points', fontsize=8, **look
      )
    places, texts = zip(*along.ticks, strict=True)
    drawing.set(xlim=(-0.1, 1.1), ylabel=metric)
    drawing.set_xticks(places, texts)
    drawing.grid(True)
    drawing.spines[['top', 'right']].set_visible(False)

  return plots.svg(f'sweep/{field}', plots.SIZE, fill)


def _write(drawing, text: str, *, x: float, y: int, up: int, **look) -> None:
  """Writes text `up` points above a position, on a background that hides lines."""
  drawing.annotate(
    text, (x, y), (0, up), textcoords='offset points', bbox=_BEHIND, **look
  )


def _alike(rows: Sequence[table.Row], field: str) -> list[list[table.Row]]:
  """Groups of rows that differ in one field only."""
  groups: dict[tuple[Any, ...], list[table.Row]] = {}
  for row in rows:
    others = tuple(value for name, value in row.settings.items() if name != field)
    groups.setdefault(others, []).append(row)
  return [group for group in groups.values() if len(group) > 1]


def _measured(distinct: Sequence[float]) -> Axis:
  low, high = distinct[0], distinct[-1]
  bend = math.log if low > 0 and high >= 10 * low else float
  span = bend(high) - bend(low)
  places = {each: (bend(each) - bend(low)) / span for each in distinct}
  return Axis(places, [(0.0, _text(low)), (1.0, _text(high))], even=False)


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
  if _is_number(value):
    return f'{value:.4g}'
  return '–' if value is None else str(value)
