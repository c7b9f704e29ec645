"""The report of a run: `report.json` for programs, `report.html` for people.

The page is one file that needs nothing else: styles and plots are inline, pictures are
data URIs, and its content policy forbids it to fetch anything. Plots take the colour of
the page's text, so that one file serves light and dark.
"""

import base64
import dataclasses
import io
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

Records = Sequence[Mapping[str, Any]]

_TEXT_COLOUR = '#010203'
"""Stands for the colour of the page's text until the plot is part of the page."""

_COLOURS = ('#2a9d8f', '#4c8bf5', '#a864d8', '#e0567a', '#e08a3c')
"""Middle tones, which are readable on white and on black."""

_POINTS = 300
"""Points per line; more cannot be seen and make the page heavy."""

_BUCKET = re.compile(r'loss_image_(\d)')
_CURVE = re.compile(r'(loss|psnr)')
_FIRST = ('loss_text', 'loss_image')


@dataclasses.dataclass(frozen=True)
class Goal:
  """What a score means, and what is asked of it.

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
  """A picture and its text, the prompt or the caption; `good` says whether they fit."""

  picture: UInt8[np.ndarray, 'h w 3']
  text: str
  good: bool | None


@dataclasses.dataclass(frozen=True)
class Gallery:
  """Pictures that are shown together."""

  title: str
  note: str
  tiles: Sequence[Tile]


def write(
  workdir: pathlib.Path,
  *,
  title: str,
  command: str,
  scores: Mapping[str, float | int | None],
  goals: Sequence[Goal],
  galleries: Sequence[Gallery],
  curves: Mapping[str, Records],
  facts: Mapping[str, str],
  attribution: str,
) -> pathlib.Path:
  """Writes `report.json` and `report.html`, each whole or not at all.

  Args:
    workdir: the run's directory.
    title: heading of the page.
    command: what was run.
    scores: by name; None and what is not finite count as not measured.
    goals: one row each in the table of scores, in this order; other scores follow.
    galleries: pictures.
    curves: records of `metrics.jsonl` by stage.
    facts: sizes, steps, machine, versions; anything worth a line.
    attribution: whose artwork is shown.

  Returns:
    Where the page is.
  """
  measured = {goal.name: None for goal in goals}
  measured |= {name: _measured(value) for name, value in scores.items()}
  verdicts = {goal.name: goal.verdict(measured[goal.name]) for goal in goals}
  about = {'title': title, 'command': command, 'facts': dict(facts)}
  about |= {'verdicts': verdicts, 'attribution': attribution}
  workdir.mkdir(parents=True, exist_ok=True)
  # Scores first: they have cost the most, and drawing the page may fail.
  values = json.dumps({**measured, 'about': about}, indent=2, allow_nan=False)
  _replace(workdir / 'report.json', values + '\n')
  asked = [verdict for verdict in verdicts.values() if verdict != 'reported']
  page = _template().render(
    title=title,
    command=command,
    rows=_rows(measured, goals),
    reached=asked.count('reached'),
    asked=len(asked),
    galleries=[_gallery(gallery) for gallery in galleries],
    stages=[(name, _plots(name, records)) for name, records in curves.items()],
    facts=facts,
    attribution=attribution,
  )
  _replace(workdir / 'report.html', page)
  return workdir / 'report.html'


def _measured(value: float | int | None) -> float | None:
  """The score as JSON can hold it."""
  return None if value is None or not math.isfinite(value) else float(value)


def _replace(path: pathlib.Path, text: str) -> None:
  """Writes beside the file and renames, so that no reader sees half a file."""
  fresh = path.with_name(path.name + '.tmp')
  with fresh.open('w', encoding='utf-8') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  fresh.replace(path)


def _template() -> jinja2.Template:
  source = pathlib.Path(__file__).with_name('report.html.jinja')
  environment = jinja2.Environment(
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return environment.from_string(source.read_text(encoding='utf-8'))


def _rows(
  measured: Mapping[str, float | None], goals: Sequence[Goal]
) -> list[dict[str, str]]:
  """The table of scores as text."""
  others = [name for name in measured if name not in {goal.name for goal in goals}]
  rows = []
  for goal in (*goals, *(Goal(name, '', None, None) for name in others)):
    value = measured[goal.name]
    limits = [('≥', goal.at_least), ('≤', goal.at_most)]
    asked = [f'{sign} {_number(limit)}' for sign, limit in limits if limit is not None]
    rows.append(
      {
        'name': goal.name,
        'meaning': goal.meaning,
        'value': '–' if value is None else _number(value),
        'exact': '' if value is None else repr(value),
        'asked': ', '.join(asked) or '–',
        'verdict': goal.verdict(value),
      }
    )
  return rows


def _number(value: float) -> str:
  """Four digits or so: 0.9844, 28.31, 1,154."""
  digits = 4 if abs(value) < 10 else 2 if abs(value) < 100 else 0
  text = f'{value:,.{digits}f}'
  return text.rstrip('0').rstrip('.') if '.' in text else text


def _gallery(gallery: Gallery) -> dict[str, Any]:
  judged = [tile.good for tile in gallery.tiles if tile.good is not None]
  tiles = [
    {
      'source': _data_uri(tile.picture),
      'width': tile.picture.shape[1],
      'height': tile.picture.shape[0],
      'small': tile.picture.shape[1] <= 128,
      'text': tile.text,
      'good': tile.good,
    }
    for tile in gallery.tiles
  ]
  return {
    'title': gallery.title,
    'note': gallery.note,
    'tiles': tiles,
    'right': sum(judged),
    'judged': len(judged),
  }


def _data_uri(picture: UInt8[np.ndarray, 'h w 3']) -> str:
  buffer = io.BytesIO()
  Image.fromarray(picture).save(buffer, format='PNG', optimize=True)
  return 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode()


def _plots(stage: str, records: Records) -> list[dict[str, str]]:
  """Every loss of a stage, and the image loss by noise level, as inline SVG."""
  keys = {key for record in records for key in record if _CURVE.match(key)}
  lines = {key: _series(records, key) for key in sorted(keys)}
  lines = {key: line for key, line in lines.items() if len(line[0]) > 1}
  buckets = {key: line for key, line in lines.items() if _BUCKET.fullmatch(key)}
  single = [key for key in lines if key not in buckets]
  single.sort(key=lambda key: (_FIRST.index(key) if key in _FIRST else 2, key))
  plots = [
    {'title': key, 'svg': _draw(f'{stage}/{key}', {key: lines[key]})} for key in single
  ]
  if buckets:
    named = {}
    for key, line in buckets.items():
      bucket = int(_BUCKET.fullmatch(key).group(1))
      named[f'{bucket / 10:.1f} – {(bucket + 1) / 10:.1f}'] = line
    title = 'loss_image by noise level (0 clean, 1 pure noise)'
    plots.append({'title': title, 'svg': _draw(f'{stage}/buckets', named)})
  return plots


def _series(records: Records, key: str) -> tuple[np.ndarray, np.ndarray]:
  """Steps and finite values; an image loss of exactly 0 means that nothing was seen."""
  pairs = [(r['step'], r[key]) for r in records if r.get(key) is not None]
  steps, values = np.asarray(pairs, np.float64).reshape(-1, 2).T
  kept = np.isfinite(values)
  if key.startswith('loss_image'):
    kept &= values != 0
  return steps[kept], values[kept]


def _smooth(values: np.ndarray) -> np.ndarray:
  """Centred moving mean over a twenty-fifth of the run, narrower at the ends."""
  window = 2 * (len(values) // 50) + 1
  kernel = np.ones(window)
  total = np.convolve(values, kernel, mode='same')
  return total / np.convolve(np.ones(len(values)), kernel, mode='same')


def _draw(name: str, lines: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
  """One plot: a single line raw and smoothed, or several lines smoothed."""
  import matplotlib  # slow to load, and needed at the end of a run only
  from matplotlib import colors, figure, ticker

  palette = colors.LinearSegmentedColormap.from_list('report', _COLOURS)
  style = {
    'svg.fonttype': 'none',
    'svg.hashsalt': name,
    'font.family': 'sans-serif',
    'font.size': 10,
    'text.color': _TEXT_COLOUR,
    'axes.edgecolor': _TEXT_COLOUR,
    'axes.labelcolor': _TEXT_COLOUR,
    'xtick.color': _TEXT_COLOUR,
    'ytick.color': _TEXT_COLOUR,
    'grid.color': _TEXT_COLOUR,
    'grid.alpha': 0.15,
  }
  with matplotlib.rc_context(style):
    canvas = figure.Figure(figsize=(4.6, 2.8), layout='constrained')
    axes = canvas.subplots()
    extremes = []
    for index, (label, (steps, values)) in enumerate(lines.items()):
      smoothed = _smooth(values)
      extremes += [smoothed.min(), smoothed.max()]
      shown = np.unique(np.linspace(0, len(steps) - 1, _POINTS).astype(int))
      colour = (
        palette(index / max(len(lines) - 1, 1)) if len(lines) > 1 else _COLOURS[1]
      )
      if len(lines) == 1:
        axes.plot(steps[shown], values[shown], color=colour, alpha=0.35, linewidth=0.8)
      axes.plot(steps[shown], smoothed[shown], color=colour, linewidth=1.6, label=label)
    if min(extremes) > 0 and max(extremes) > 4 * min(extremes):
      axes.set_yscale('log')
      axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
      axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f'{y:g}'))
      axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.xaxis.set_major_formatter(
      ticker.FuncFormatter(lambda x, _: f'{x / 1000:g}k' if x >= 1000 else f'{x:g}')
    )
    axes.set_xlabel('step')
    axes.grid(True)
    axes.spines[['top', 'right']].set_visible(False)
    if len(lines) > 1:
      canvas.legend(loc='outside right center', fontsize=8, frameon=False)
    buffer = io.StringIO()
    canvas.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
  return _inline(buffer.getvalue())


def _inline(svg: str) -> str:
  """An SVG file as a part of a page: no prologue, no fixed size, the page's colour."""
  svg = svg[svg.index('<svg') :]
  svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
  svg = re.sub(r' xmlns(:xlink)?="[^"]*"', '', svg)
  svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1', svg, count=1)
  svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1', svg, count=1)
  svg = re.sub(r'<g id="[^"]*"', '<g', svg)
  return svg.replace('xlink:href', 'href').replace(_TEXT_COLOUR, 'currentColor')
