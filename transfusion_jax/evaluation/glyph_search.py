"""Finds glyphs on a ground of known colour, the one that explains most first.

Coarse: at every place, for every glyph and size, how much of the squared difference to
the bare ground would the glyph explain? One matrix product per size, on pictures pooled
so that a glyph has about 16 x 16 cells. Fine: around the best place, the best glyphs are
moved pixel by pixel to where the absolute difference is smallest.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float32

from transfusion_jax.data import emoji_glyphs, emoji_placement, emoji_scenes

# A glyph is there if the mean absolute difference to its drawing is below this (0..1),
DISTANCE = 0.12
# no quarter of it is further off than this, so that no half is another glyph's,
QUARTER_DISTANCE = 0.16
# and the difference is below this share of what it would be without the glyph.
REMAINING = 0.5
# So many places are looked at closely, and so many glyphs at each of them.
PLACES = 8
GLYPHS = 32


@dataclasses.dataclass(frozen=True)
class Found:
  """A glyph that was found: corner and size in pixels, what it stands on, how far off."""

  name: str
  x: int
  y: int
  size: int
  color: str
  distance: float


@dataclasses.dataclass(frozen=True)
class Explanation:
  """The glyphs found, and the mean absolute difference that they leave."""

  objects: tuple[Found, ...]
  residual: float


@dataclasses.dataclass(frozen=True)
class _Coarse:
  """Gain of every glyph at every place, for one size."""

  size: int
  step: int  # pixels that the fine search may move
  corners: np.ndarray  # [p, 2] x, y
  gain: Float32[np.ndarray, 'p g']  # squared difference explained, summed over pixels


def search(
  config: emoji_scenes.EmojiScenesConfig,
  picture: Float32[np.ndarray, 'h w 3'],
  region: tuple[int, int, int, int],
  color: str,
) -> Explanation:
  """Glyphs in a region (left, top, right, bottom) whose ground has this colour."""
  left, top, right, bottom = region
  ground = np.array(emoji_glyphs.COLORS[color], np.float32) / 255
  bare = np.abs(picture - ground).mean(-1)
  left_over = bare[top:bottom, left:right].sum()
  maps = [_coarse(config, picture, region, color, size) for size in config.sprites]
  objects: list[Found] = []
  for _ in range(PLACES):
    peaks = [each.gain.max(initial=-np.inf) for each in maps]
    if max(peaks) <= 0:
      break
    best = maps[int(np.argmax(peaks))]
    x, y = best.corners[int(best.gain.max(1).argmax())]
    middle = np.array([x, y]) + best.size / 2
    found = _look_closely(config, picture, region, color, maps, middle)
    accepted = found is not None and _fits(config, picture, bare, found)
    if accepted:
      window = np.s_[found.y : found.y + found.size, found.x : found.x + found.size]
      left_over -= bare[window].sum() - found.distance * found.size**2
      objects.append(found)
    for each in maps:
      each.gain[_taken(each, found, middle, accepted)] = -np.inf
  return Explanation(tuple(objects), float(left_over / (right - left) / (bottom - top)))


def _taken(each: _Coarse, found, middle, accepted: bool) -> Bool[np.ndarray, ' p']:
  """Places that a glyph found here, or nothing found here, rules out."""
  middles = each.corners + each.size / 2
  if not accepted:
    return np.abs(middles - middle).max(1) <= each.step
  centre = np.array([found.x, found.y]) + found.size / 2
  # Glyphs never overlap; a place is coarse by one step.
  return np.abs(middles - centre).max(1) < (each.size + found.size) / 2 - each.step


def _coarse(config, picture, region, color, size) -> _Coarse:
  cell = max(1, size // 16)
  left, top, right, bottom = region
  if config.placement == 'grid':
    corners = emoji_placement.candidates(size, config.size)
    step = 0
  else:
    xs = range(left, right - size + 1, cell)
    ys = range(top, bottom - size + 1, cell)
    corners, step = [(x, y) for y in ys for x in xs], cell
  corners = [
    (x, y)
    for x, y in corners
    if left <= x <= right - size and top <= y <= bottom - size
  ]
  if not corners:
    return _Coarse(size, step, np.zeros((0, 2), int), np.zeros((0, 1), np.float32))
  templates, bare = _templates(config, color, size, cell)
  windows = np.stack(
    [_pool(_cut(picture, x, y, size), cell).ravel() for x, y in corners]
  )
  without = np.square(windows - bare).sum(1, keepdims=True)
  # |w - t|^2 with |w|^2 left out on both sides of the difference.
  with_glyph = (
    np.square(windows).sum(1, keepdims=True)
    - 2 * windows @ templates.T
    + np.square(templates).sum(1)
  )
  return _Coarse(size, step, np.array(corners), (without - with_glyph) * cell**2)


@functools.lru_cache(maxsize=64)
def _templates(config, color: str, size: int, cell: int):
  """Pooled drawings of every glyph on this colour [g, cells], and the bare colour."""
  glyphs = emoji_glyphs.select(config.glyphs)
  drawings = np.stack(
    [_pool(_drawing(glyph.character, size, color), cell).ravel() for glyph in glyphs]
  )
  ground = np.array(emoji_glyphs.COLORS[color], np.float32) / 255
  return drawings, np.tile(ground, drawings.shape[1] // 3)


def _look_closely(config, picture, region, color, maps, middle) -> Found | None:
  """The glyph that explains most around a place."""
  glyphs = emoji_glyphs.select(config.glyphs)
  ground = np.array(emoji_glyphs.COLORS[color], np.float32) / 255
  options = []
  for each in maps:
    # Places whose window holds the middle, well inside.
    offset = np.abs(each.corners + each.size / 2 - middle).max(1, initial=0)
    near = np.flatnonzero(offset <= max(each.size / 8, each.step))
    if not len(near):
      continue
    gain = each.gain[near]
    place = gain.argmax(0)
    for glyph in np.argsort(-gain.max(0), kind='stable')[:GLYPHS]:
      options.append((gain[place[glyph], glyph], each, near[place[glyph]], int(glyph)))
  options.sort(key=lambda option: -option[0])
  best, best_gain = None, 0.0
  for _, each, place, glyph in options[:GLYPHS]:
    drawing = _drawing(glyphs[glyph].character, each.size, color)
    x, y, distance = _settle(
      picture, region, drawing, tuple(map(int, each.corners[place])), each.step
    )
    bare = float(np.abs(_cut(picture, x, y, each.size) - ground).mean())
    if (bare - distance) * each.size**2 > best_gain:
      best_gain = (bare - distance) * each.size**2
      best = Found(glyphs[glyph].name, x, y, each.size, color, distance)
  return best


def _settle(picture, region, drawing, corner, step) -> tuple[int, int, float]:
  """Moves a drawing pixel by pixel, downhill, at most `step` away, to fit best."""
  size = len(drawing)
  left, top, right, bottom = region
  seen: dict[tuple[int, int], float] = {}

  def distance(x, y):
    if (x, y) not in seen:
      seen[x, y] = float(np.abs(_cut(picture, x, y, size) - drawing).mean())
    return seen[x, y]

  here = corner
  while True:
    around = [
      (x, y)
      for x in range(here[0] - 1, here[0] + 2)
      for y in range(here[1] - 1, here[1] + 2)
      if max(abs(x - corner[0]), abs(y - corner[1])) <= step
      and left <= x <= right - size
      and top <= y <= bottom - size
    ]
    best = min(around, key=lambda place: distance(*place))
    if distance(*best) >= distance(*here):
      return (*here, distance(*here))
    here = best


def _fits(config, picture, bare, found: Found) -> bool:
  """Whether a glyph is close enough, in all its quarters."""
  character = emoji_glyphs.named((found.name,))[0].character
  drawing = _drawing(character, found.size, found.color)
  off = np.abs(_cut(picture, found.x, found.y, found.size) - drawing).mean(-1)
  half = found.size // 2
  quarters = [
    off[:half, :half],
    off[:half, half:],
    off[half:, :half],
    off[half:, half:],
  ]
  without = _cut(bare, found.x, found.y, found.size).mean()
  return bool(
    found.distance < min(DISTANCE, REMAINING * without)
    and max(quarter.mean() for quarter in quarters) < QUARTER_DISTANCE
  )


def _drawing(character: str, size: int, color: str) -> np.ndarray:
  pixels = emoji_glyphs.composed(character, size, emoji_glyphs.COLORS[color])
  return pixels.astype(np.float32) / 255


def _cut(picture, x: int, y: int, size: int) -> np.ndarray:
  return picture[y : y + size, x : x + size]


def _pool(window: np.ndarray, cell: int) -> np.ndarray:
  """Means of cells of `cell` x `cell` pixels; what is left over at the edge is cut."""
  cells = len(window) // cell
  window = window[: cells * cell, : cells * cell]
  return window.reshape(cells, cell, cells, cell, 3).mean((1, 3))
