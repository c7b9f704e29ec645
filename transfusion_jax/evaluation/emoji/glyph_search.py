"""Finds glyphs on a ground of known colour, the one that explains most first.

Coarse: at every place, for every glyph and size, how much of the squared difference to
the bare ground does the glyph explain? One matrix product per size, on pictures pooled
so that a glyph has about 16 x 16 cells. Fine: around the best place, the best glyphs
are moved pixel by pixel to where the absolute difference is smallest.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float32

from transfusion_jax.data.emoji import glyphs as emoji_glyphs
from transfusion_jax.data.emoji import placement as emoji_placement
from transfusion_jax.data.emoji import scenes as emoji_scenes

# A glyph is there if the mean absolute difference to its drawing is below this (0..1),
DISTANCE = 0.12
# no quarter of it is further off than this, so that no half is another glyph's,
QUARTER_DISTANCE = 0.13
# and the difference is below this share of what it would be without the glyph.
REMAINING = 0.55
# So many places are looked at closely, and so many glyphs at each of them.
PLACES = 8
GLYPHS = 32


@dataclasses.dataclass(frozen=True)
class Found:
  """A glyph that was found: corner and size in pixels, its ground, how far off."""

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
  if config.placement == 'grid':
    corners, windows = _slots(picture, region, size, cell)
  else:
    corners, windows = _places(picture, region, size, cell)
  step = 0 if config.placement == 'grid' else cell
  if not len(corners):
    return _Coarse(size, step, np.zeros((0, 2), int), np.zeros((0, 1), np.float32))
  templates, bare = _templates(config.glyphs, color, size, cell)
  # |w - bare|^2 - |w - t|^2, where |w|^2 cancels.
  without = np.square(bare).sum() - 2 * (windows @ bare)
  gain = windows @ (2 * templates.T)
  gain += without[:, None] - np.square(templates).sum(1)
  return _Coarse(size, step, corners, gain * cell**2)


def _slots(picture, region, size, cell):
  """Corners of the grid's slots within a region, and their pooled windows."""
  left, top, right, bottom = region
  corners = [
    (x, y)
    for x, y in emoji_placement.candidates(size, len(picture))
    if left <= x <= right - size and top <= y <= bottom - size
  ]
  windows = [_pool(_cut(picture, x, y, size), cell).ravel() for x, y in corners]
  return np.array(corners).reshape(-1, 2), np.array(windows, np.float32)


def _places(picture, region, size, cell):
  """Corners at every `cell` pixels of a region, and their pooled windows."""
  left, top, right, bottom = region
  pooled = _pool(picture[top:bottom, left:right], cell)
  cells = size // cell
  windows = np.lib.stride_tricks.sliding_window_view(
    pooled, (cells, cells), axis=(0, 1)
  )
  windows = windows[
    : (bottom - top - size) // cell + 1, : (right - left - size) // cell + 1
  ]
  y, x = np.indices(windows.shape[:2]).reshape(2, -1) * cell
  windows = windows.transpose(0, 1, 3, 4, 2).reshape(len(x), -1)
  return np.stack([x + left, y + top], -1), windows


@functools.lru_cache(maxsize=64)
def _templates(count: int, color: str, size: int, cell: int):
  """Pooled drawings of every glyph on this colour [g, cells], and the bare colour."""
  glyphs = emoji_glyphs.select(count)
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
  here, seen = corner, {}
  while True:
    for y in range(max(top, here[1] - 1), min(bottom - size, here[1] + 1) + 1):
      for x in range(max(left, here[0] - 1), min(right - size, here[0] + 1) + 1):
        near = max(abs(x - corner[0]), abs(y - corner[1])) <= step
        if near and (x, y) not in seen:
          window = picture[y : y + size, x : x + size]
          seen[x, y] = float(np.abs(window - drawing).mean())
    best = min(seen, key=seen.get)
    if best == here:
      return (*here, seen[here])
    here = best


def _fits(config, picture, bare, found: Found) -> bool:
  """True if a glyph is close enough, in all its quarters."""
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


def _pool(picture: np.ndarray, cell: int) -> np.ndarray:
  """Means of cells of `cell` x `cell` pixels; what is left over at the edge is cut."""
  rows, columns = (extent // cell for extent in picture.shape[:2])
  picture = picture[: rows * cell, : columns * cell]
  return picture.reshape(rows, cell, columns, cell, 3).mean((1, 3))
