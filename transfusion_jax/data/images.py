"""Picture files of users, in and out."""

import io
import os
import pathlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps


def read_picture(
  path: str | os.PathLike, size: int
) -> UInt8[np.ndarray, 'size size 3']:
  """A picture file as a square of `size` pixels, ready for a model.

  Turned as its EXIF orientation says, transparency on white, the middle square cut out,
  resized with antialiasing.

  Raises:
    ValueError: the file is missing, is no picture, or is broken.
  """
  try:
    data = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise ValueError(
      f'expected a picture file, found {path}: {error.strerror}; check the path'
    ) from error
  try:
    return decode(data, size)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def decode(data: bytes, size: int) -> UInt8[np.ndarray, 'size size 3']:
  """As `read_picture`, from the bytes of a file."""
  try:
    with Image.open(io.BytesIO(data)) as opened:
      picture = ImageOps.exif_transpose(opened).convert('RGBA')
  # Pillow tells of broken pictures in many ways; each of these was met.
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    reason = str(error).split(' <')[0]  # without the address of the buffer
    raise ValueError(
      f'expected a readable picture, found {len(data)} bytes that are none ({reason}); '
      'open it in an image viewer and save it as PNG or JPEG'
    ) from error
  ground = Image.new('RGBA', picture.size, 'white')
  picture = Image.alpha_composite(ground, picture).convert('RGB')
  # Fits by cutting equally from both sides of the longer edge.
  square = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
  return np.asarray(square)


def encode_png(pixels: UInt8[np.ndarray, 'h w 3']) -> bytes:
  """The bytes of a PNG file."""
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'PNG')
  return buffer.getvalue()
