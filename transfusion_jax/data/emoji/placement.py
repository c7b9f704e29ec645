"""Placement of the objects of an emoji scene.

'grid' puts every sprite in the middle of its cell: one object in the middle of the
picture, two on the middle line, several in the quarters. 'free' puts them anywhere
without overlap, as long as the relation in the caption is the obvious one: along its
direction the objects are apart, and across it their middles differ by at most half of
the distance along it.
"""

import itertools

import numpy as np

Corner = tuple[int, int]  # x, y of the top left pixel
Square = tuple[int, int, int]  # its size as well


def place(
  rng: np.random.Generator,
  kind: str,
  relation: str | None,
  sizes: list[int],
  side: int,
  placement: str,
) -> list[Corner]:
  """Top left corners of sprites of these sizes in a picture of `side` pixels."""
  free = placement == 'free'
  if relation is None:
    return _scatter(rng, sizes, side) if free else _quarters(rng, sizes, side)
  swapped = relation in ('right', 'below')
  low, high = sizes[::-1] if swapped else sizes
  if kind == 'pair' and free:
    corners = _apart(rng, low, high, side)
  else:
    corners = _halves(rng, low, high, side, free)
  if relation in ('above', 'below'):
    corners = [corner[::-1] for corner in corners]
  return corners[::-1] if swapped else corners


def join(
  rng: np.random.Generator,
  taken: list[Square],
  size: int,
  side: int,
  placement: str,
) -> Corner | None:
  """Finds a place for one more sprite among several; None if there is no room."""
  if placement == 'free':
    corners = [
      (_within(rng, side - size), _within(rng, side - size)) for _ in range(20)
    ]
  else:
    quarters = candidates(size, side)[-4:]
    corners = [quarters[quarter] for quarter in rng.permutation(4)]
  for corner in corners:
    if not any(_overlap((*corner, size), square) for square in taken):
      return corner
  return None


def candidates(size: int, side: int) -> list[Corner]:
  """Every corner at which 'grid' can put a sprite of this size."""
  low, middle, high = (side // 2 - size) // 2, (side - size) // 2, 0
  high = low + side // 2
  corners = [(middle, middle), (low, middle), (high, middle), (middle, low)]
  return [*corners, (middle, high), (low, low), (high, low), (low, high), (high, high)]


def _quarters(rng, sizes, side) -> list[Corner]:
  """One sprite in the middle, or several in different quarters."""
  if len(sizes) == 1:
    return [((side - sizes[0]) // 2,) * 2]
  quarters = rng.permutation(4)[: len(sizes)]
  half = side // 2
  return [
    (
      (half - size) // 2 + int(quarter % 2) * half,
      (half - size) // 2 + int(quarter // 2) * half,
    )
    for quarter, size in zip(quarters, sizes, strict=True)
  ]


def _halves(rng, low, high, side, free) -> list[Corner]:
  """Two sprites in the left and the right half."""
  half = side // 2
  if free:
    return [
      (_within(rng, half - low), _within(rng, side - low)),
      (half + _within(rng, half - high), _within(rng, side - high)),
    ]
  return [
    ((half - low) // 2, (side - low) // 2),
    (half + (half - high) // 2, (side - high) // 2),
  ]


def _apart(rng, low, high, side) -> list[Corner]:
  """Two sprites anywhere, the first clearly to the left of the second."""
  first = _within(rng, side - low - high), _within(rng, side - low)
  x = first[0] + low + _within(rng, side - high - low - first[0])
  distance = x + high / 2 - first[0] - low / 2
  middle = first[1] + low / 2 + rng.uniform(-0.5, 0.5) * distance
  return [first, (x, int(np.clip(round(middle - high / 2), 0, side - high)))]


def _scatter(rng, sizes, side) -> list[Corner]:
  """Sprites anywhere without overlap; in different quarters if that fails."""
  for _ in range(20):
    corners = [(_within(rng, side - size), _within(rng, side - size)) for size in sizes]
    squares = [(*corner, size) for corner, size in zip(corners, sizes, strict=True)]
    if not any(_overlap(*two) for two in itertools.combinations(squares, 2)):
      return corners
  half = side // 2
  return [
    (
      int(quarter % 2) * half + _within(rng, half - size),
      int(quarter // 2) * half + _within(rng, half - size),
    )
    for quarter, size in zip(rng.permutation(4), sizes, strict=False)
  ]


def _overlap(one: Square, other: Square) -> bool:
  middles = [(2 * x + size, 2 * y + size) for x, y, size in (one, other)]
  reach = one[2] + other[2]
  return all(abs(a - b) < reach for a, b in zip(*middles, strict=True))


def _within(rng, room: int) -> int:
  return int(rng.integers(room + 1))
