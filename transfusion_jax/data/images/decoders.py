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

from transfusion_jax.data.images import headers

Decoder = Callable[[BinaryIO], Image.Image]

ALWAYS: dict[str, Decoder] = {
  headers.JPEG: JpegImagePlugin.JpegImageFile,
  headers.PNG: PngImagePlugin.PngImageFile,
  headers.WEBP: WebPImagePlugin.WebPImageFile,
  headers.GIF: GifImagePlugin.GifImageFile,
  headers.BMP: BmpImagePlugin.BmpImageFile,
  headers.TIFF: TiffImagePlugin.TiffImageFile,
  headers.PNM: PpmImagePlugin.PpmImageFile,
}


@functools.cache
def find(kind: str) -> Decoder:
  """The decoder of a kind of file.

  Raises:
    ImportError: it is not installed; the message says what to install.
  """
  if kind == headers.AVIF:
    return _avif()
  return _heic() if kind == headers.HEIC else ALWAYS[kind]


def _avif() -> Decoder:
  try:
    from PIL import AvifImagePlugin
  except ImportError as error:
    raise _missing(headers.AVIF, "'pillow>=11.3'") from error
  if not features.check('avif'):
    raise _missing(headers.AVIF, "--force-reinstall 'pillow>=11.3'")
  return AvifImagePlugin.AvifImageFile


def _heic() -> Decoder:
  try:
    from pillow_heif import as_plugin
  except ImportError as error:
    raise _missing(headers.HEIC, 'pillow-heif') from error
  return as_plugin.HeifImageFile


def _missing(kind: str, package: str) -> ImportError:
  return ImportError(
    f'expected a decoder of {kind} pictures, found none installed; pip install '
    f'{package}, or save them as PNG or JPEG'
  )
