"""Pillow's decoders by kind of file, and what to install where one is missing.

They are taken directly: `Image.open` would warn, guess, and try dozens of formats.
"""

import functools
from collections.abc import Callable
from typing import BinaryIO

from PIL import (
  BmpImagePlugin,
  GifImagePlugin,
  Image,
  JpegImagePlugin,
  PngImagePlugin,
  PpmImagePlugin,
  TiffImagePlugin,
  WebPImagePlugin,
  features,
)

from transfusion_jax.data import picture_files

Decoder = Callable[[BinaryIO], Image.Image]

ALWAYS: dict[str, Decoder] = {
  picture_files.JPEG: JpegImagePlugin.JpegImageFile,
  picture_files.PNG: PngImagePlugin.PngImageFile,
  picture_files.WEBP: WebPImagePlugin.WebPImageFile,
  picture_files.GIF: GifImagePlugin.GifImageFile,
  picture_files.BMP: BmpImagePlugin.BmpImageFile,
  picture_files.TIFF: TiffImagePlugin.TiffImageFile,
  picture_files.PNM: PpmImagePlugin.PpmImageFile,
}


@functools.cache
def find(kind: str) -> Decoder:
  """The decoder of a kind of file.

  Raises:
    ImportError: it is not installed; the message says what to install.
  """
  if kind == picture_files.AVIF:
    return _avif()
  return _heic() if kind == picture_files.HEIC else ALWAYS[kind]


def _avif() -> Decoder:
  try:
    from PIL import AvifImagePlugin
  except ImportError as error:
    raise _missing(picture_files.AVIF, "'pillow>=11.3'") from error
  if not features.check('avif'):
    raise _missing(picture_files.AVIF, "--force-reinstall 'pillow>=11.3'")
  return AvifImagePlugin.AvifImageFile


def _heic() -> Decoder:
  try:
    from pillow_heif import as_plugin
  except ImportError as error:
    raise _missing(picture_files.HEIC, 'pillow-heif') from error
  return as_plugin.HeifImageFile


def _missing(kind: str, package: str) -> ImportError:
  return ImportError(
    f'expected a decoder of {kind} pictures, found none installed; pip install '
    f'{package}, or save them as PNG or JPEG'
  )
