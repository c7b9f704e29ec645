"""The plots of a report, as SVG that takes the colour of the page's text.

Several runs share a plot, each in a colour of its own.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Records = Sequence[Mapping[str, Any]]
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

_BUCKET = re.compile(r'loss_image_(\d)')
_CURVE = re.compile(r'(loss|psnr)')
_FIRST = ('loss_text', 'loss_image')


def of_training(stage: str, runs: Mapping[str, Records]) -> list[dict[str, str]]:
  """Every loss of a stage, all runs in one plot, and the image loss by noise level.

  Args:
    stage: 'transfusion', say.
    runs: records of `metrics.jsonl` by run.
  """
  keys = {
    key for one in runs.values() for each in one for key in each if _CURVE.match(key)
  }
  single = [key for key in sorted(keys) if not _BUCKET.fullmatch(key)]
  single.sort(key=lambda key: (_FIRST.index(key) if key in _FIRST else 2, key))
  plots = []
  for key in single:
    lines = {run: series(records, key) for run, records in runs.items()}
    plots += _plot(key, f'{stage}/{key}', lines, raw=len(runs) == 1)
  buckets = sorted(key for key in keys if _BUCKET.fullmatch(key))
  for run, records in runs.items():
    lines = {}
    for key in buckets:
      bucket = int(_BUCKET.fullmatch(key).group(1))
      lines[f'{bucket / 10:.1f} – {(bucket + 1) / 10:.1f}'] = series(records, key)
    title = 'loss_image by noise level (0 clean, 1 pure noise)'
    title += f', {run}' if len(runs) > 1 else ''
    plots += _plot(title, f'{stage}/buckets/{run}', lines, colours=LEVELS)
  return plots


def of_scores(
  runs: Mapping[str, Sequence[tuple[int, Mapping[str, float | None]]]],
) -> list[dict[str, str]]:
  """Every score that was measured at several steps, all runs in one plot.

  Args:
    runs: steps and scores by run.
  """
  names = {name for steps in runs.values() for _, scores in steps for name in scores}
  plots = []
  for name in sorted(names):
    lines = {
      run: series([{'step': step, **scores} for step, scores in steps], name)
      for run, steps in runs.items()
    }
    if any(len(line[0]) > 1 for line in lines.values()):
      plots += _plot(name, f'scores/{name}', lines, points=True)
  return plots


def series(records: Records, key: str) -> Line:
  """Steps and finite values; an image loss of exactly 0 means that nothing was seen."""
  pairs = [(r['step'], r[key]) for r in records if r.get(key) is not None]
  steps, values = np.asarray(pairs, np.float64).reshape(-1, 2).T
  kept = np.isfinite(values)
  if key.startswith('loss_image'):
    kept &= values != 0
  return steps[kept], values[kept]


def _plot(
  title: str,
  name: str,
  lines: Mapping[str, Line],
  *,
  colours: Sequence[str] | None = None,
  raw: bool = False,
  points: bool = False,
) -> list[dict[str, str]]:
  """One plot; none where there is nothing to see.

  Args:
    title: above it.
    name: of its own among all plots of a page.
    lines: by label.
    colours: of a scale that the lines lie on; None: those of runs.
    raw: whether a curve is shown as it was logged as well.
    points: whether the lines join points, instead of being smoothed curves.
  """
  fewest = 1 if points else 2
  shown = {label: line for label, line in lines.items() if len(line[0]) >= fewest}
  if not shown:
    return []
  order = list(lines)
  if colours is None:
    colour = {label: COLOURS[order.index(label) % len(COLOURS)] for label in shown}
  else:
    colour = scale(list(shown), colours)
  svg = _draw(name, shown, colour, raw=raw, points=points)
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
  lines: Mapping[str, Line],
  colour: Mapping[str, Any],
  *,
  raw: bool,
  points: bool,
) -> str:
  def fill(canvas) -> None:
    axes, extremes = canvas.subplots(), []
    for label, (steps, values) in lines.items():
      smoothed = values if points else _smooth(values)
      extremes += [smoothed.min(), smoothed.max()]
      shown = np.unique(np.linspace(0, len(steps) - 1, _POINTS).astype(int))
      look = {'color': colour[label]}
      if raw:
        axes.plot(steps[shown], values[shown], alpha=0.35, linewidth=0.8, **look)
      marked = {'marker': 'o', 'markersize': 4} if points else {}
      axes.plot(
        steps[shown], smoothed[shown], linewidth=1.6, label=label, **look, **marked
      )
    _ticks(axes, extremes)
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


def _ticks(axes, extremes: Sequence[float]) -> None:
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
  axes.set_xlabel('step')
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
