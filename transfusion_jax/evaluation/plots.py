"""The plots of a report, as SVG that takes the colour of the page's text.

Several runs share a plot, each in a colour of its own.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from transfusion_jax.evaluation import curves

Scores = Sequence[tuple[int, Mapping[str, float | None]]]
"""Steps, ascending, and what was measured there."""

Line = tuple[np.ndarray, np.ndarray]
"""Steps and values."""

COLOURS = ('#4c8bf5', '#e08a3c', '#2a9d8f', '#e0567a', '#a864d8', '#7d8a97')
"""Middle tones, which are readable on white and on black: one for every run."""

LEVELS = ('#2a9d8f', '#4c8bf5', '#a864d8', '#e0567a', '#e08a3c')
"""From clean to noisy, or from best to worst."""

SIZE = (4.6, 2.8)
"""Inches."""

TEXT_COLOUR = '#010203'
"""Stands for the colour of the page's text until the plot is part of the page."""

PAPER_COLOUR = '#030201'
"""Stands for the colour behind the plot."""

_POINTS = 300
"""Points per line; more cannot be seen and make the page heavy."""

LEVEL = re.compile(r'(.*loss_image)_(\d)$')
"""The image loss in one part of the noise level, and that part."""

NOTHING = curves.Curve.whole([], [])

_STEPS = 5
"""Steps of a run whose losses by noise level are shown."""

_BUCKET = re.compile(r'loss_image_(\d)')
_FIRST = ('loss_text', 'loss_image')


def of_training(
  stage: str, runs: Mapping[str, Mapping[str, curves.Curve]]
) -> list[dict[str, str]]:
  """Every loss of a stage, all runs in one plot, and the image loss by noise level.

  Args:
    stage: 'transfusion', say.
    runs: curves by run and name.
  """
  keys = {key for one in runs.values() for key in one}
  single = [key for key in sorted(keys) if not _BUCKET.fullmatch(key)]
  single.sort(key=lambda key: (_FIRST.index(key) if key in _FIRST else 2, key))
  plots = []
  for key in single:
    lines = {run: one.get(key, NOTHING) for run, one in runs.items()}
    plots += _plot(key, f'{stage}/{key}', lines, raw=len(runs) == 1)
  buckets = sorted(key for key in keys if _BUCKET.fullmatch(key))
  for run, one in runs.items():
    lines = {}
    for key in buckets:
      bucket = int(_BUCKET.fullmatch(key).group(1))
      lines[f'{bucket / 10:.1f} – {(bucket + 1) / 10:.1f}'] = one.get(key, NOTHING)
    title = 'loss_image by noise level (0 clean, 1 pure noise)'
    title += f', {run}' if len(runs) > 1 else ''
    plots += _plot(title, f'{stage}/buckets/{run}', lines, colours=LEVELS)
  return plots


def of_levels(runs: Mapping[str, Scores]) -> list[dict[str, str]]:
  """The newest image loss by noise level of every evaluator, all runs in one plot.

  Of a run alone some earlier steps are shown as well.

  Args:
    runs: steps and scores by run.
  """
  found: dict[str, dict[str, Line]] = {}
  for run, steps in runs.items():
    by_name = {}
    for step, scores in steps:
      for name, line in _levels(scores).items():
        by_name.setdefault(name, []).append((f'step {step:,}', line))
    for name, lines in by_name.items():
      shown = [(run, lines[-1][1])] if len(runs) > 1 else _spread(lines, _STEPS)
      found.setdefault(name, {}).update(shown)
  plots = []
  for name, lines in sorted(found.items()):
    made = {label: curves.Curve.whole(*line) for label, line in lines.items()}
    colours = LEVELS[::-1] if len(runs) == 1 else None
    look = {'colours': colours, 'points': True, 'across': 'noise level'}
    plots += _plot(name, f'levels/{name}', made, **look)
  return plots


def _levels(scores: Mapping[str, float | None]) -> dict[str, Line]:
  """By name of the loss: the middles of the noise levels, and the losses there."""
  found: dict[str, list[tuple[float, float]]] = {}
  for name, value in sorted(scores.items()):
    match = LEVEL.match(name)
    if match and value is not None and np.isfinite(value):
      level = (int(match[2]) + 0.5) / 10
      found.setdefault(match[1], []).append((level, float(value)))
  return {
    name: (np.array([level for level, _ in each]), np.array([loss for _, loss in each]))
    for name, each in found.items()
  }


def _spread(items: Sequence[Any], count: int) -> list[Any]:
  """Some of the items, evenly spread, the first and the last among them."""
  places = np.unique(np.linspace(0, len(items) - 1, count).astype(int))
  return [items[place] for place in places]


def of_scores(
  runs: Mapping[str, Scores],
) -> list[dict[str, str]]:
  """Every score that was measured at several steps and changed, all runs in one plot.

  Args:
    runs: steps and scores by run.
  """
  names = {name for steps in runs.values() for _, scores in steps for name in scores}
  plots = []
  for name in sorted(name for name in names if not LEVEL.match(name)):
    lines = {
      run: curves.Curve.whole(*series(steps, name)) for run, steps in runs.items()
    }
    values = {value for line in lines.values() for value in line.values.tolist()}
    if len(values) > 1 and any(len(line.steps) > 1 for line in lines.values()):
      plots += _plot(name, f'scores/{name}', lines, points=True)
  return plots


def series(scores: Scores, name: str) -> Line:
  """Steps and finite values of a score."""
  pairs = [(step, each[name]) for step, each in scores if each.get(name) is not None]
  steps, values = np.asarray(pairs, np.float64).reshape(-1, 2).T
  kept = np.isfinite(values)
  return steps[kept], values[kept]


def _plot(
  title: str,
  name: str,
  lines: Mapping[str, curves.Curve],
  *,
  colours: Sequence[str] | None = None,
  raw: bool = False,
  points: bool = False,
  across: str = 'step',
) -> list[dict[str, str]]:
  """One plot; none where there is nothing to see.

  Args:
    title: above it.
    name: of its own among all plots of a page.
    lines: by label.
    colours: of a scale that the lines lie on; None: those of runs.
    raw: whether a curve is shown as it was logged as well.
    points: whether the lines join points, instead of being smoothed curves.
    across: what the lines go along.
  """
  fewest = 1 if points else 2
  shown = {label: line for label, line in lines.items() if len(line.steps) >= fewest}
  if not shown:
    return []
  order = list(lines)
  if colours is None:
    colour = {label: COLOURS[order.index(label) % len(COLOURS)] for label in shown}
  else:
    colour = scale(list(shown), colours)
  svg = _draw(name, shown, colour, raw=raw, points=points, across=across)
  return [{'title': title, 'svg': svg}]


def scale(labels: Sequence[Any], colours: Sequence[str]) -> dict[Any, Any]:
  """A colour for every label, from the first of some colours to the last."""
  from matplotlib import colors

  palette = colors.LinearSegmentedColormap.from_list('report', colours)
  return {each: palette(k / max(len(labels) - 1, 1)) for k, each in enumerate(labels)}


def _smooth(values: np.ndarray) -> np.ndarray:
  """Centred moving mean over a twenty-fifth of the run, narrower at the ends."""
  window = 2 * (len(values) // 50) + 1
  kernel = np.ones(window)
  total = np.convolve(values, kernel, mode='same')
  return total / np.convolve(np.ones(len(values)), kernel, mode='same')


def _draw(
  name: str,
  lines: Mapping[str, curves.Curve],
  colour: Mapping[str, Any],
  *,
  raw: bool,
  points: bool,
  across: str,
) -> str:
  def fill(canvas) -> None:
    axes, extremes = canvas.subplots(), []
    for label, line in lines.items():
      steps = line.mean_steps
      smoothed = line.means if points else _smooth(line.means)
      extremes += [smoothed.min(), smoothed.max()]
      shown = np.unique(np.linspace(0, len(steps) - 1, _POINTS).astype(int))
      look = {'color': colour[label]}
      if raw:
        logged = curves.extremes(line.steps, line.values, _POINTS)
        axes.plot(*logged, alpha=0.35, linewidth=0.8, **look)
      marked = {'marker': 'o', 'markersize': 4} if points else {}
      axes.plot(
        steps[shown], smoothed[shown], linewidth=1.6, label=label, **look, **marked
      )
    _ticks(axes, extremes, across)
    if len(lines) > 1:
      place = {'loc': 'outside upper left', 'ncols': 3}
      if len(lines) > len(COLOURS):
        place = {'loc': 'outside right center'}
      canvas.legend(fontsize=8, frameon=False, **place)

  return svg(name, SIZE, fill)


def svg(name: str, size: tuple[float, float], fill: Callable[[Any], None]) -> str:
  """A plot as a part of a page.

  Args:
    name: of its own among all plots of a page.
    size: width and height in inches; text is of 10 points.
    fill: draws into an empty figure of Matplotlib's.
  """
  import matplotlib  # slow to load, and needed at the end of a run only
  from matplotlib import figure

  with matplotlib.rc_context(_style(name)):
    canvas = figure.Figure(figsize=size, layout='constrained')
    fill(canvas)
    buffer = io.StringIO()
    canvas.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
  return _inline(buffer.getvalue())


def _style(name: str) -> dict[str, Any]:
  coloured = ('text.color', 'axes.edgecolor', 'axes.labelcolor', 'xtick.color')
  return {
    'svg.fonttype': 'none',
    'svg.hashsalt': name,
    'font.family': 'sans-serif',
    'font.size': 10,
    **dict.fromkeys((*coloured, 'ytick.color', 'grid.color'), TEXT_COLOUR),
    'grid.alpha': 0.15,
  }


def _ticks(axes, extremes: Sequence[float], across: str) -> None:
  from matplotlib import ticker

  if min(extremes) > 0 and max(extremes) > 4 * min(extremes):
    axes.set_yscale('log')
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f'{y:g}'))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
  axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
  axes.xaxis.set_major_formatter(
    ticker.FuncFormatter(lambda x, _: f'{x / 1000:g}k' if x >= 1000 else f'{x:g}')
  )
  axes.set_xlabel(across)
  axes.grid(True)
  axes.spines[['top', 'right']].set_visible(False)


def _inline(svg: str) -> str:
  """An SVG file as a part of a page: no prologue, no fixed size, the page's colour."""
  svg = svg[svg.index('<svg') :]
  svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
  svg = re.sub(r' xmlns(:xlink)?="[^"]*"', '', svg)
  svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1', svg, count=1)
  svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1', svg, count=1)
  svg = re.sub(r'<g id="[^"]*"', '<g', svg)
  svg = svg.replace('xlink:href', 'href').replace(TEXT_COLOUR, 'currentColor')
  return svg.replace(PAPER_COLOUR, 'var(--card)')
