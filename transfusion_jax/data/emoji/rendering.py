"""Pictures of emoji scenes: what is in them, and how they are drawn."""

import dataclasses
import functools

import numpy as np
from jaxtyping import UInt8

from transfusion_jax.data.emoji import captions, glyphs


@dataclasses.dataclass(frozen=True)
class Object:
  """One emoji in a picture: top left corner, size in pixels, colour it stands on."""

  name: str
  x: int
  y: int
  size: int
  color: str


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
  """One picture, and everything that can be said about it.

  `kind` is any kind but 'story'. `background` is None where there are tiles. `relation`
  is where the first object lies as seen from the second: left, right, above, below.
  """

  kind: str
  objects: tuple[Object, ...]
  background: str | None
  relation: str | None
  caption: str
  pixels: UInt8[np.ndarray, 'h w 3']


def draw(
  meaning: captions.Meaning,
  places: list[tuple[int, int, int]],
  size: int,
  later: bool,
) -> Picture:
  """The picture of a meaning; `later` ones of a story start with 'then'."""
  objects = tuple(
    Object(name, x, y, side, color)
    for name, color, (x, y, side) in zip(
      meaning.names, meaning.colors, places, strict=True
    )
  )
  caption = captions.write(meaning)
  tiled = meaning.kind == 'binding'
  return Picture(
    meaning.kind,
    objects,
    None if tiled else meaning.colors[0],
    meaning.relation,
    f'{captions.THEN} {caption}' if later else caption,
    render(objects, meaning.relation if tiled else None, size),
  )


def render(
  objects: tuple[Object, ...], tiles: str | None, size: int
) -> UInt8[np.ndarray, 'size size 3']:
  """Draws objects, none overlapping, on their colours.

  `tiles` is None for one background, or the relation of the first object to the second:
  the picture is then cut across that direction into two halves of their two colours.
  """
  pixels = np.empty((size, size, 3), np.uint8)
  if tiles is None:
    pixels[:] = glyphs.COLORS[objects[0].color]
  else:
    half, axis = size // 2, 1 if tiles in ('left', 'right') else 0
    low, high = objects if tiles in ('left', 'above') else objects[::-1]
    halves = np.moveaxis(pixels, axis, 0)
    halves[:half] = glyphs.COLORS[low.color]
    halves[half:] = glyphs.COLORS[high.color]
  for thing in objects:
    sprite = glyphs.composed(
      _character(thing.name), thing.size, glyphs.COLORS[thing.color]
    )
    pixels[thing.y : thing.y + thing.size, thing.x : thing.x + thing.size] = sprite
  return pixels


@functools.cache
def _character(name: str) -> str:
  return glyphs.named((name,))[0].character
