"""The report of runs: `report.json` for programs, a page for people.

The page is one file that needs nothing else: styles and plots are inline, pictures are
data URIs, and its content policy forbids it to fetch anything. Plots take the colour of
the page's text, so that one file serves light and dark. Several runs stand side by
side.
"""

import base64
import dataclasses
import io
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from transfusion_jax.evaluation import curves, pages, plots

LONGEST = 400
"""Characters of a text below a picture; the rest can be read in its own file."""

STEPS = 6
"""Steps of a run whose scores stand in the table: the last. Plots have all of them."""


@dataclasses.dataclass(frozen=True)
class Goal:
  """Meaning of a score, and the goal for it.

  Attributes:
    name: of the score in `report.json`.
    meaning: the same in words.
    at_least: smallest value that will do, or None.
    at_most: largest value that will do, or None; without either it is only reported.
  """

  name: str
  meaning: str
  at_least: float | None
  at_most: float | None

  def verdict(self, value: float | None) -> str:
    """`reached`, `missed`, `not measured`, or `reported` where nothing is asked."""
    if value is None:
      return 'not measured'
    if self.at_least is None and self.at_most is None:
      return 'reported'
    low = self.at_least is not None and value < self.at_least
    high = self.at_most is not None and value > self.at_most
    return 'missed' if low or high else 'reached'


@dataclasses.dataclass(frozen=True)
class Tile:
  """A picture and its text.

  Attributes:
    picture: one, or several side by side.
    text: the prompt, or what the model says.
    good: whether they fit; None: nobody has judged.
    truth: what should be said, where that is known.
  """

  picture: UInt8[np.ndarray, 'h w 3']
  text: str
  good: bool | None
  truth: str = ''


@dataclasses.dataclass(frozen=True)
class Gallery:
  """Pictures that are shown together."""

  title: str
  note: str
  tiles: Sequence[Tile]


@dataclasses.dataclass(frozen=True)
class Run:
  """All that a report says of a run.

  Attributes:
    name: of the run.
    command: what was run.
    facts: sizes, steps, machine, versions; anything worth a line.
    curves: what training logged, by stage and name; see `curves.thinned`.
    scores: steps, ascending, and what was measured there; None and what is not finite
      count as not measured.
    goals: one row each in the table of scores, in this order; other scores follow.
    galleries: pictures of the last step, by name.
    attribution: whose artwork is shown, or nothing.
    trouble: what is not in the report, a line each: evaluators that failed, files that
      were damaged.
  """

  name: str
  command: str
  facts: Mapping[str, str]
  curves: Mapping[str, Mapping[str, curves.Curve]]
  scores: Sequence[tuple[int, Mapping[str, float | None]]]
  goals: Sequence[Goal]
  galleries: Mapping[str, Gallery]
  attribution: str
  trouble: Sequence[str] = ()

  @property
  def last(self) -> dict[str, float | None]:
    """The newest value of every score, and None for goals that were not measured."""
    found: dict[str, float | None] = {goal.name: None for goal in self.goals}
    for _, scores in self.scores:
      found |= {name: _measured(value) for name, value in scores.items()}
    return found

  @property
  def verdicts(self) -> dict[str, str]:
    """Outcome of every goal."""
    last = self.last
    return {goal.name: goal.verdict(last[goal.name]) for goal in self.goals}


def write(workdir: pathlib.Path, run: Run) -> pathlib.Path:
  """Writes `report.json` and `report.html`, each whole or not at all.

  Args:
    workdir: the run's directory.
    run: what is reported.

  Returns:
    Where the page is.
  """
  about = {'title': run.name, 'command': run.command, 'facts': dict(run.facts)}
  about |= {'verdicts': run.verdicts, 'attribution': run.attribution}
  about |= {'trouble': list(run.trouble)}
  workdir.mkdir(parents=True, exist_ok=True)
  # Scores first: they have cost the most, and drawing the page may fail.
  values = json.dumps({**run.last, 'about': about}, indent=2, allow_nan=False)
  pages.replace(workdir / 'report.json', values + '\n')
  write_page(workdir / 'report.html', [run])
  return workdir / 'report.html'


def write_page(path: pathlib.Path, runs: Sequence[Run]) -> None:
  """Writes the page of one run, or of several side by side, under different names."""
  asked = [each for run in runs for each in run.verdicts.values() if each != 'reported']
  page = pages.render(
    'evaluation/report.html.jinja',
    title=' · '.join(run.name for run in runs),
    runs=runs,
    colours=_colours(runs),
    table=_table(runs),
    reached=asked.count('reached'),
    asked=len(asked),
    levels=plots.of_levels({run.name: run.scores for run in runs}),
    trends=plots.of_scores({run.name: run.scores for run in runs}),
    galleries=_galleries(runs),
    stages=_stages(runs),
    attributions=sorted({run.attribution for run in runs if run.attribution}),
  )
  pages.replace(path, page)


def _measured(value: float | int | None) -> float | None:
  """The score as JSON can hold it."""
  return None if value is None or not math.isfinite(value) else float(value)


def _colours(runs: Sequence[Run]) -> dict[str, str]:
  """The colour of every run in the plots; none where there is but one."""
  if len(runs) == 1:
    return {}
  colours = (plots.COLOURS[k % len(plots.COLOURS)] for k in range(len(runs)))
  return {run.name: colour for run, colour in zip(runs, colours, strict=True)}


def _table(runs: Sequence[Run]) -> dict[str, Any]:
  """The table of scores as text: a row for every score, a column for every step."""
  goals = {goal.name: goal for run in runs for goal in run.goals}
  measured = {name for run in runs for name in run.last if not plots.LEVEL.match(name)}
  others = (Goal(name, '', None, None) for name in sorted(measured - goals.keys()))
  columns = [
    {'run': run.name, 'step': step, 'scores': scores, 'newest': step == newest}
    for run in runs
    for newest in [run.scores[-1][0] if run.scores else None]
    for step, scores in run.scores[-STEPS:]
  ]
  rows = []
  for goal in (*goals.values(), *others):
    limits = [('≥', goal.at_least), ('≤', goal.at_most)]
    asked = [
      f'{sign} {pages.number(limit)}' for sign, limit in limits if limit is not None
    ]
    row = {'name': goal.name, 'meaning': goal.meaning, 'asked': ', '.join(asked) or '–'}
    row['parts'] = re.findall(r'[^_/]*[_/]?', goal.name)  # where a line may break
    row['cells'] = [_cell(goal, column) for column in columns]
    rows.append(row)
  return {
    'columns': columns,
    'rows': rows,
    'goals': any(row['asked'] != '–' for row in rows),
  }


def _cell(goal: Goal, column: Mapping[str, Any]) -> dict[str, str]:
  value = _measured(column['scores'].get(goal.name))
  verdict = goal.verdict(value) if column['newest'] else 'reported'
  return {
    'value': '–' if value is None else pages.number(value),
    'exact': '' if value is None else repr(value),
    'verdict': verdict,
  }


def _stages(runs: Sequence[Run]) -> list[tuple[str, list[dict[str, str]]]]:
  """Plots of training by stage."""
  names = dict.fromkeys(name for run in runs for name in run.curves)
  return [
    (
      name,
      plots.of_training(
        name, {run.name: run.curves[name] for run in runs if name in run.curves}
      ),
    )
    for name in names
  ]


def _galleries(runs: Sequence[Run]) -> list[dict[str, Any]]:
  """Galleries of one name beside each other, a side for every run that has it."""
  names = dict.fromkeys(name for run in runs for name in run.galleries)
  made = []
  for name in names:
    having = [run for run in runs if name in run.galleries]
    first = having[0].galleries[name]
    sides = [{'run': run.name, **_gallery(run.galleries[name])} for run in having]
    made.append({'title': first.title, 'note': first.note, 'sides': sides})
  return made


def _gallery(gallery: Gallery) -> dict[str, Any]:
  judged = [tile.good for tile in gallery.tiles if tile.good is not None]
  tiles = [
    {
      'source': _data_uri(tile.picture),
      'width': tile.picture.shape[1],
      'height': tile.picture.shape[0],
      'small': tile.picture.shape[0] <= 128,
      'shape': _shape(tile.picture),
      'text': _shortened(tile.text),
      'truth': _shortened(tile.truth),
      'good': tile.good,
    }
    for tile in gallery.tiles
  ]
  return {
    'tiles': tiles,
    'right': sum(judged),
    'judged': len(judged),
  }


def _shape(picture: UInt8[np.ndarray, 'h w 3']) -> str:
  """Size of an image's place: a row of its own, two places, or one."""
  sides = picture.shape[1] / picture.shape[0]
  return 'strip' if sides > 4 else 'pair' if sides > 1.6 else ''


def _shortened(text: str) -> str:
  return text if len(text) <= LONGEST else text[: LONGEST - 1] + '…'


def _data_uri(picture: UInt8[np.ndarray, 'h w 3']) -> str:
  return 'data:image/png;base64,' + base64.b64encode(png(picture)).decode()


def png(picture: UInt8[np.ndarray, 'h w 3']) -> bytes:
  """A picture as a file."""
  buffer = io.BytesIO()
  Image.fromarray(picture).save(buffer, format='PNG', optimize=True)
  return buffer.getvalue()
