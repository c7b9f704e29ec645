"""HTML page of a sweep: the best trial, plots, and a table of all trials."""

import collections
import os
import pathlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

from transfusion_jax.evaluation import pages
from transfusion_jax.sweeping import figures, table


def write(
  path: pathlib.Path,
  ranked: Sequence[table.Row],
  *,
  metric: table.Metric,
  reports: dict[int, pathlib.Path],
) -> None:
  """Writes the page atomically.

  Args:
    path: path of the page.
    ranked: rows, best first.
    metric: metric that they are ranked by.
    reports: existing reports of trials by number.
  """
  scored = [row for row in ranked if metric.name in row.scores]
  states = collections.Counter(row.status for row in ranked)
  page = pages.render(
    'sweeping/sweep.html.jinja',
    title=path.resolve().parent.name,
    states=', '.join(f'{count} {state}' for state, count in states.items()),
    metric=metric,
    best=_best(scored, metric),
    plots=_plots(scored, metric.name),
    table=_table(ranked, metric.name, _links(path, reports)),
  )
  pages.replace(path, page)


def _best(scored: Sequence[table.Row], metric: table.Metric) -> dict[str, Any] | None:
  if not scored:
    return None
  row = scored[0]
  score = pages.number(row.scores[metric.name])
  return {'trial': row.trial, 'score': score, 'words': [*map(shlex.quote, row.command)]}


def _plots(scored: Sequence[table.Row], metric: str) -> list[dict[str, str]]:
  fields = figures.varied(scored) if scored else []
  if not fields:
    return []
  drawn = [{'title': 'all trials', 'svg': figures.parallel(scored, metric)}]
  for field in fields:
    drawn.append({'title': field, 'svg': figures.alone(scored, field, metric)})
  return drawn


def _links(path: pathlib.Path, reports: dict[int, pathlib.Path]) -> dict[int, str]:
  """Links to reports, relative to the page, so that both can be moved together."""
  return {
    trial: pathlib.PurePath(os.path.relpath(report, path.parent)).as_posix()
    for trial, report in reports.items()
  }


def _table(
  ranked: Sequence[table.Row], metric: str, links: dict[int, str]
) -> dict[str, Any]:
  known = table.headlines(table.names(ranked))
  known = [metric] * (metric in known) + [name for name in known if name != metric]
  fields = list(ranked[0].settings)
  rows = [
    {
      'trial': row.trial,
      'link': links.get(row.trial),
      'status': row.status,
      'seconds': f'{row.seconds:,.0f}' if row.seconds else '–',
      'settings': [
        {'text': _text(value), 'changed': name in row.changed}
        for name, value in row.settings.items()
      ],
      'scores': [
        {'text': pages.number(value), 'exact': repr(value)}
        if (value := row.scores.get(name)) is not None
        else {'text': '–', 'exact': ''}
        for name in known
      ],
    }
    for row in ranked
  ]
  return {
    'rows': rows,
    'fields': [_parts(name) for name in fields],
    'scores': [_parts(name) for name in known],
  }


def _parts(name: str) -> list[str]:
  """Parts of a name, between which a line may break."""
  return re.findall(r'[^._/]*[._/]?', name)


def _text(value: Any) -> str:
  return '–' if value is None else str(value)
