"""Picture files in and out: from bytes that nobody vouches for to pixels."""

import dataclasses
import io
import math
import os
import re
import struct
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from transfusion_jax.data import regular_files
from transfusion_jax.data.images import decoders, headers

LONGEST = 65_535
"""Pixels of a side. More than JPEG, WebP and GIF can say; where others do, a row may
be longer than decoders count on: they ask for all the memory there is."""

MOST_BYTES = 200_000_000
"""Largest number of bytes of an image file named by a user or a request."""

URL = re.compile(r'(?:^|/)((?:https?|ftp|s3|gs|hf|data):/?\S*)', re.IGNORECASE)
"""Also behind a folder that it was joined to."""

BROKEN = (
  *(OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError),
  *(struct.error, ArithmeticError, MemoryError, RuntimeError, EOFError),
)
"""Pillow tells of broken pictures in many ways; most of these were met."""

UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
"""Transposition that undoes each EXIF orientation."""

MIDDLE = (0.5, 0.5)

REASON = 200
"""Characters that are told of what a decoder says."""

GAP = 2.0
"""A JPEG may be decoded at a fraction if that leaves so many pixels for one wanted."""


@dataclasses.dataclass(frozen=True)
class ImagesConfig:
  """Conversion of images to arrays of one size.

  Attributes:
    height: of every array.
    width: of every array.
    crop: which part of a picture of another shape is kept, always the largest that has
      the wanted shape: the one in the 'center', or one at a 'random' place.
    smallest: pictures with a side below this are refused; 1: none.
    most_pixels: larger pictures are refused before they are decoded. Decoding takes up
      to 4 bytes for a pixel, and a step more for some kinds.
  """

  height: int
  width: int
  crop: Literal['center', 'random']
  smallest: int
  most_pixels: int

  def __post_init__(self):
    for name in ('height', 'width', 'smallest', 'most_pixels'):
      if getattr(self, name) < 1:
        found = getattr(self, name)
        raise ValueError(f'expected {name} of at least 1, found {found}; raise it')


def read_picture(
  path: str | os.PathLike[str], shape: tuple[int, int]
) -> UInt8[np.ndarray, 'h w 3']:
  """The middle of a picture file of any size, up to 100 million pixels.

  Args:
    path: of the file, exactly: neither `~` nor `package:` is expanded.
    shape: height and width wanted.

  Raises:
    ValueError: the file is missing, no regular file or too large, is no picture, or is
      broken.
  """
  config = ImagesConfig(*shape, crop='center', smallest=1, most_pixels=10**8)
  data = _content(os.fspath(path))
  try:
    return decode(data, config, None)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def decode(
  data: bytes, config: ImagesConfig, generator: np.random.Generator | None
) -> UInt8[np.ndarray, 'h w 3']:
  """A picture of the wanted size, ready for a model.

  Turned as its EXIF orientation says, transparency on white, the first of an animation,
  16 bits rounded to 8, resized with antialiasing. Colours are taken as sRGB whatever
  profile stands beside them; CMYK is converted without one.

  Args:
    data: the bytes of a file of a kind that `picture_files` knows.
    config: the size wanted, and what is refused.
    generator: of the place of a random crop; else not needed.

  Raises:
    ValueError: the bytes are no such picture or a broken one, or its size is refused.
  """
  try:
    file = headers.parse(data)
  except ValueError as error:
    raise _unreadable(data, error) from error
  _check_size(file, config)
  place = MIDDLE if config.crop == 'center' else tuple(generator.random(2))
  try:
    picture = _fit(file, config, place)
  except ImportError as error:
    raise ValueError(str(error)) from error
  except BROKEN as error:
    raise _unreadable(data, error) from error
  if file.orientation in UPRIGHT:
    picture = picture.transpose(UPRIGHT[file.orientation])
  if picture.mode == 'RGBA':
    white = Image.new('RGBA', picture.size, 'white')
    picture = Image.alpha_composite(white, picture).convert('RGB')
  return np.asarray(picture)


def encode_png(pixels: UInt8[np.ndarray, 'h w 3']) -> bytes:
  """The bytes of a PNG file."""
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'PNG')
  return buffer.getvalue()


def _content(path: str) -> bytes:
  """The bytes of an image file."""
  if url := URL.search(path):
    raise ValueError(
      f'expected the path of a picture file, found the URL {url[1]}; download it and '
      'give its path'
    )
  try:
    data = regular_files.read(path, MOST_BYTES)
  except OSError as error:
    raise ValueError(
      f'expected a picture file, found {path}: {error.strerror}; check the path'
    ) from error
  if not data:
    raise ValueError(
      f'expected a picture file, found {path}: an empty file; get it once more'
    )
  return data


def _unreadable(data: bytes, error: Exception) -> ValueError:
  said = ' '.join(str(error).split(' <')[0].split())  # without a buffer's address
  reason = said[:REASON] or type(error).__name__
  return ValueError(
    f'expected a readable picture, found {len(data)} bytes that are none ({reason}); '
    'open it in an image viewer and save it as PNG or JPEG'
  )


def _check_size(file: headers.PictureFile, config: ImagesConfig) -> None:
  w, h = file.width, file.height
  if max(w, h) > LONGEST or file.held > config.most_pixels:
    raise ValueError(
      f'expected a picture with sides of at most {LONGEST:,} pixels and parts of at '
      f'most {config.most_pixels} pixels, found {w} x {h} in parts of {file.held}; '
      'save it in parts, or leave it out'
    )
  if min(w, h) < config.smallest or w * h > config.most_pixels:
    raise ValueError(
      f'expected a picture with sides of at least {config.smallest} and at most '
      f'{config.most_pixels} pixels, found {w} x {h}; resize it, or leave it out'
    )


def _fit(
  file: headers.PictureFile, config: ImagesConfig, place: tuple[float, float]
) -> Image.Image:
  """The part at `place`, (0, 0) to (1, 1), as RGB or RGBA, not yet turned upright."""
  size = (config.width, config.height)
  size = size[::-1] if file.orientation >= 5 else size
  scale = max(size[0] / file.width, size[1] / file.height)
  with decoders.find(file.kind)(io.BytesIO(file.data)) as picture:
    if not _as_told(picture, file):
      raise ValueError(f'its size is both {picture.size} and another')
    # A JPEG can be decoded at 1/2, 1/4 or 1/8; others do not know of this.
    picture.draft(None, [math.ceil(GAP * scale * side) for side in picture.size])
    if picture.mode.startswith('I'):
      picture = Image.fromarray(_eight_bits(np.asarray(picture)))
    mode = 'RGBA' if picture.has_transparency_data else 'RGB'
    picture = picture if picture.mode == mode else picture.convert(mode)
    # Cuts first and resizes what is left; of RGBA with colours weighted by alpha.
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS, centering=place)


def _as_told(picture: Image.Image, file: headers.PictureFile) -> bool:
  """True if a decoder found the size of the header; that of HEIC cuts edges off."""
  width, height = picture.size
  if file.kind == headers.HEIC:
    return 0 < width <= file.width and 0 < height <= file.height
  return (width, height) == (file.width, file.height)


def _eight_bits(grey: np.ndarray) -> UInt8[np.ndarray, 'h w']:
  """Grey values of 16 bits, rounded: 65,535 becomes 255. Pillow would cut them off."""
  return ((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)
