"""Files that came through the page's own upload, and no other file of the server.

What a browser sends names files by their paths on the server. A path is looked at as a
text first, so that nothing outside the folder is as much as touched: not a device, not
a pipe, not a mounted share. What it leads to is resolved then, and looked at once more.
"""

import asyncio
import contextlib
import io
import os
import pathlib
import stat
import time
import warnings
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

MOST_BYTES = 32 * 2**20
"""Bytes of the largest file."""

MOST_PIXELS = 2**25
"""Pixels of the largest image that is painted on."""

ABANDONED = 300.0
"""Seconds for which an upload that broke off is kept, many times what a body may take.
Gradio receives files in the folder itself and moves what is whole to folders within.
"""

FRESH = 1.0
"""Seconds for which it is known how much is kept."""


def check(path: Any, folder: pathlib.Path) -> pathlib.Path:
  """The real path of an uploaded file; nothing is expanded or fetched.

  Args:
    path: as it was sent.
    folder: that uploads lie in, and nothing else.

  Raises:
    ValueError: it names no regular file in the folder, or one that is too large. The
      message does not tell whether there is a file elsewhere.
  """
  inside = (
    isinstance(path, str)
    and os.path.isabs(path)
    and '\0' not in path
    and pathlib.PurePath(os.path.normpath(path)).is_relative_to(folder)
  )
  if inside:
    real = pathlib.Path(os.path.realpath(path))
    try:
      found = real.lstat()
    except (OSError, ValueError):
      found = None
    inside = real.is_relative_to(os.path.realpath(folder)) and found is not None
    inside = inside and stat.S_ISREG(found.st_mode)
  if not inside:
    raise ValueError(
      'expected a file that was uploaded to this page, found another path; upload it '
      'again'
    )
  if found.st_size > MOST_BYTES:
    raise ValueError(
      f'expected a file of at most {MOST_BYTES} bytes, found {found.st_size}; make the '
      'image smaller'
    )
  return real


def check_all(value: Any, folder: pathlib.Path) -> None:
  """Raises ValueError if anything in a value in JSON names a file that is not uploaded.

  An object with the field `path` stands for a file, wherever it is.
  """
  if isinstance(value, dict):
    if value.get('path') is not None:
      check(value['path'], folder)
    value = list(value.values())
  if isinstance(value, list):
    for each in value:
      check_all(each, folder)


def size(folder: pathlib.Path) -> int:
  """Bytes of all that lies in the folder."""
  total = 0
  for place, folders, files in os.walk(folder):
    for name in (*folders, *files):
      with contextlib.suppress(OSError):  # it has gone meanwhile
        total += os.lstat(os.path.join(place, name)).st_size
  return total


def sweep(folder: pathlib.Path) -> None:
  """Removes what is left of uploads that broke off; nothing else would."""
  with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
    for entry in entries:
      with contextlib.suppress(OSError):  # it has gone meanwhile
        written = entry.stat(follow_symlinks=False).st_mtime
        if entry.is_file(follow_symlinks=False) and time.time() - written > ABANDONED:
          os.unlink(entry.path)


class Room:
  """Bytes that uploads may still take, those under way counted as if they were whole.

  Belongs to one event loop. The folder is looked at by another thread, once in a while.
  """

  def __init__(self, folder: pathlib.Path, most: int):
    """Knows nothing yet.

    Args:
      folder: that uploads lie in, and nothing else.
      most: bytes in it.
    """
    self._folder, self._most = folder, most
    self._looking, self._looked = asyncio.Lock(), -FRESH
    self._kept = self._arriving = self._arrived = 0

  async def take(self, size: int) -> bool:
    """True if there is room for an upload; it is reserved until `leave`."""
    async with self._looking:
      if time.monotonic() - self._looked >= FRESH:
        await self._look()
    if self._kept + self._arrived + self._arriving + size > self._most:
      return False
    self._arriving += size
    return True

  def leave(self, size: int) -> None:
    """The upload has ended, and its bytes lie in the folder or nowhere."""
    self._arriving -= size
    self._arrived += size

  async def _look(self) -> None:
    arrived = self._arrived  # what ends meanwhile may be overlooked, and counts on
    await asyncio.to_thread(sweep, self._folder)
    self._kept = await asyncio.to_thread(size, self._folder)
    self._arrived -= arrived
    self._looked = time.monotonic()


def painted(path: pathlib.Path) -> UInt8[np.ndarray, 'h w 4']:
  """The pixels of a PNG file as a canvas makes them, alpha last.

  Raises:
    ValueError: it is none, is broken, or has too many pixels.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of Pillow, on what is large or odd
    try:
      with Image.open(io.BytesIO(path.read_bytes()), formats=['PNG']) as image:
        if image.width * image.height > MOST_PIXELS:
          raise ValueError(f'{image.width} x {image.height} pixels')
        return np.asarray(image.convert('RGBA'))
    # Pillow tells of broken images in many ways.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
      reason = str(error).split(' <')[0]  # without the address of the buffer
      raise ValueError(
        f'expected a PNG file of at most {MOST_PIXELS} pixels, found none ({reason}); '
        'paint again'
      ) from error
