"""Reads emoji scenes back from pixels, exactly and explainably.

A picture is explained by a ground colour and glyphs drawn on it. `detect` looks for
the glyphs that explain most of it, one after the other, and accepts one only if it
fits; the rules are constants here and in `glyph_search.py`. `score` compares what was
found with what a scene says, in the categories of GenEval (Ghosh et al., 2023): single
object, two objects, counting, colours, position and attribute binding.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Num

from transfusion_jax.data.emoji import captions as emoji_captions
from transfusion_jax.data.emoji import glyphs as emoji_glyphs
from transfusion_jax.data.emoji import rendering as emoji_rendering
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.evaluation.emoji import glyph_search

# A colour is right if no channel is further off (0..1).
COLOR_TOLERANCE = 0.15
# This share of a region's border must have its colour; the rest may be objects.
COLOR_SHARE = 0.1
# One object lies beside another if their middles differ by this share of the picture.
RELATION_MARGIN = 1 / 8

Found = glyph_search.Found


@dataclasses.dataclass(frozen=True)
class Detected:
  """Contents of an image: colours of its grounds (None: none of them), and its objects.

  `grounds` is the background, or the left and right (upper and lower) tile.
  """

  grounds: tuple[str | None, ...]
  objects: tuple[Found, ...]
  residual: float  # mean absolute difference that remains unexplained, 0..1


@dataclasses.dataclass(frozen=True)
class Score:
  """Correctness of an image; None for what its scene does not ask for.

  Attributes:
    objects: exactly the objects of the scene are there, each as often as it should.
    background: the background has its colour.
    counting: of a count: as `objects`.
    relation: of two objects, if both are there: they lie as the caption says.
    binding: of two tiles: both objects are there, each on its own colour.
  """

  objects: bool
  background: bool | None
  counting: bool | None
  relation: bool | None
  binding: bool | None

  @property
  def whole(self) -> bool:
    """True if all that is asked for is right."""
    parts = (self.objects, self.background, self.relation, self.binding)
    return all(part for part in parts if part is not None)


def detect(
  config: emoji_scenes.EmojiScenesConfig,
  pixels: Num[np.ndarray, 'h w 3'],
  tiles: str | None,
) -> Detected:
  """Reads the contents of an image of these scenes.

  Args:
    config: which glyphs, sizes, places and colours there can be.
    pixels: uint8, or floats in 0..1.
    tiles: None for one background, 'x' for a left and a right tile, 'y' for an upper
      and a lower one.
  """
  picture = _to_float(pixels)
  if picture.shape != (config.size, config.size, 3):
    raise ValueError(
      f'expected pictures of {config.size} x {config.size} x 3 as in the config, found '
      f'{picture.shape}; resize them first'
    )
  half = config.size // 2
  regions = {
    None: [(0, 0, config.size, config.size)],
    'x': [(0, 0, half, config.size), (half, 0, config.size, config.size)],
    'y': [(0, 0, config.size, half), (0, half, config.size, config.size)],
  }[tiles]
  grounds, objects, residuals = [], [], []
  for region in regions:
    options = [
      (search.residual, color if certain else None, search.objects)
      for color, certain in _ground_colors(config, picture, region)
      for search in [glyph_search.search(config, picture, region, color)]
    ]
    residual, ground, found = min(options, key=lambda option: option[0])
    grounds.append(ground)
    objects += found
    residuals.append(residual)
  return Detected(tuple(grounds), tuple(objects), float(np.mean(residuals)))


def read(
  config: emoji_scenes.EmojiScenesConfig,
  wanted: emoji_rendering.Picture,
  pixels: Num[np.ndarray, 'h w 3'],
) -> Detected:
  """Reads `pixels` that have a background, or tiles, like the image wanted."""
  ways = 'xy' if wanted.kind == 'binding' else (None,)
  readings = [detect(config, pixels, tiles) for tiles in ways]
  return min(readings, key=lambda reading: reading.residual)


def score(
  config: emoji_scenes.EmojiScenesConfig,
  scene: emoji_scenes.Scene | emoji_rendering.Picture,
  pixels: Num[np.ndarray, 'h w 3'],
) -> Score:
  """Scores `pixels`, which should show a scene or an image of a story."""
  wanted = scene.picture if isinstance(scene, emoji_scenes.Scene) else scene
  return judge(config, wanted, read(config, wanted, pixels))


def judge(
  config: emoji_scenes.EmojiScenesConfig,
  wanted: emoji_rendering.Picture,
  detected: Detected,
) -> Score:
  """Scores an image that has been read against the one that is wanted."""
  tiled = wanted.kind == 'binding'
  names = collections.Counter(thing.name for thing in wanted.objects)
  found = collections.Counter(thing.name for thing in detected.objects)
  objects = names == found
  colors = {(thing.name, thing.color) for thing in wanted.objects}
  bound = {(thing.name, thing.color) for thing in detected.objects}
  certain = None not in detected.grounds
  return Score(
    objects=objects,
    background=None if tiled else detected.grounds[0] == wanted.background,
    counting=objects if wanted.kind == 'count' else None,
    relation=_relation(config, wanted, detected.objects) if names <= found else None,
    binding=objects and colors == bound and certain if tiled else None,
  )


def aggregate(
  config: emoji_scenes.EmojiScenesConfig,
  scenes: Sequence[emoji_scenes.Scene | emoji_rendering.Picture],
  pixels: Sequence[Num[np.ndarray, 'h w 3']] | Num[np.ndarray, 'b h w 3'],
) -> dict[str, float]:
  """Shares of what is right: only the rows that these scenes ask for.

  background      of all scenes with a background
  single_object   exactly this object is there
  two_objects     exactly these two are there
  relation        of pairs with both objects there: they lie as the caption says
  counting        exactly so many of this object are there
  binding         both objects are there, each on its colour
  """
  rows: dict[str, list[bool]] = collections.defaultdict(list)
  for scene, picture in zip(scenes, pixels, strict=True):
    result = score(config, scene, picture)
    if result.background is not None:
      rows['background'].append(result.background)
    if scene.kind == 'single':
      rows['single_object'].append(result.objects)
    if scene.kind == 'pair':
      rows['two_objects'].append(result.objects)
      if result.relation is not None:
        rows['relation'].append(result.relation)
    if result.counting is not None:
      rows['counting'].append(result.counting)
    if result.binding is not None:
      rows['binding'].append(result.binding)
  return {name: float(np.mean(row)) for name, row in rows.items()}


def caption_correct(
  config: emoji_scenes.EmojiScenesConfig,
  scene: emoji_scenes.Scene | emoji_rendering.Picture,
  text: str,
) -> bool:
  """True if a caption names exactly the objects, how many, and the colour of each.

  The order of the objects is free, and the relation is not looked at: see
  `caption_relation_correct`.
  """
  wanted = scene.picture if isinstance(scene, emoji_scenes.Scene) else scene
  meaning = _read(config, text)
  said = (
    None if meaning is None else sorted(zip(meaning.names, meaning.colors, strict=True))
  )
  kinds = (wanted.kind == 'binding', meaning is not None and meaning.kind == 'binding')
  return said == sorted((thing.name, thing.color) for thing in wanted.objects) and (
    kinds[0] == kinds[1]
  )


def caption_relation_correct(
  config: emoji_scenes.EmojiScenesConfig,
  scene: emoji_scenes.Scene | emoji_rendering.Picture,
  text: str,
) -> bool | None:
  """True if a caption says truly where two objects lie, seen from either of them.

  None if the scene has no relation, or the caption does not name both objects.
  """
  wanted = scene.picture if isinstance(scene, emoji_scenes.Scene) else scene
  meaning = _read(config, text)
  if wanted.relation is None or meaning is None or meaning.relation is None:
    return None
  places = {thing.name: thing for thing in wanted.objects}
  if set(meaning.names) != set(places):
    return None
  first, second = (places[name] for name in meaning.names)
  return _lies(config, meaning.relation, first, second)


def _read(config, text: str) -> emoji_captions.Meaning | None:
  names = tuple(glyph.name for glyph in emoji_glyphs.select(config.glyphs))
  return emoji_captions.read(text, names)


def _relation(config, wanted, objects: tuple[Found, ...]) -> bool | None:
  """True if two objects, both found, lie as they should."""
  if wanted.relation is None:
    return None
  first, second = (
    next(thing for thing in objects if thing.name == name)
    for name in (one.name for one in wanted.objects)
  )
  return _lies(config, wanted.relation, first, second)


def _lies(config, relation: str, first, second) -> bool:
  axis = 'x' if relation in ('left', 'right') else 'y'
  middles = [getattr(thing, axis) + thing.size / 2 for thing in (first, second)]
  distance = middles[1] - middles[0]
  if relation in ('right', 'below'):
    distance = -distance
  return bool(distance > RELATION_MARGIN * config.size)


def _ground_colors(config, picture, region) -> list[tuple[str, bool]]:
  """The colours that a region's ground may have, and whether its border has them.

  One if it has more than half of the border, else the two commonest.
  """
  left, top, right, bottom = region
  inside = picture[top:bottom, left:right]
  border = np.concatenate([inside[0], inside[-1], inside[1:-1, 0], inside[1:-1, -1]])
  names = tuple(emoji_glyphs.COLORS)[: config.colors]
  palette = np.array([emoji_glyphs.COLORS[name] for name in names], np.float32) / 255
  off = np.abs(border[:, None] - palette).max(-1)  # [border pixels, colours]
  nearest = off.argmin(1)
  share = np.array(
    [np.mean((nearest == k) & (off[:, k] < COLOR_TOLERANCE)) for k in range(len(names))]
  )
  if share.max() < COLOR_SHARE:
    median = np.median(border, axis=0)
    return [(names[int(np.abs(palette - median).max(1).argmin())], False)]
  best = np.argsort(-share, kind='stable')[: 1 if share.max() > 0.5 else 2]
  return [(names[int(k)], True) for k in best if share[k] >= COLOR_SHARE]


def _to_float(pixels: Num[np.ndarray, 'h w 3']) -> Float32[np.ndarray, 'h w 3']:
  scale = 255 if pixels.dtype == np.uint8 else 1
  if not math.isfinite(float(np.sum(pixels))):
    return np.zeros(pixels.shape, np.float32)  # no picture: nothing is found in it
  return np.clip(pixels.astype(np.float32) / scale, 0, 1)
