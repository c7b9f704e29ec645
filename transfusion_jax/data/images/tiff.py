"""The first image of a TIFF file: its size, and the file without all the rest.

A TIFF may name 65,535 fields, each as long as the file, further images, and tiles
larger than the image; decoders read or make room for them. So only fields that say how
pixels are stored are kept, in a directory of our own behind the file.

Fields and types: TIFF 6.0 (Adobe, 1992) and its supplements.
"""

import dataclasses
import struct

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
"""Bytes of a value by its type."""

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIPS, ORIENTATION, SAMPLES, ROWS, PLANES = 273, 274, 277, 278, 284
TILE_WIDTH, TILE_HEIGHT, TILES, EXTRA, FORMAT = 322, 323, 324, 338, 339
FILL, T4, T6, PREDICTOR = 266, 292, 293, 317
SINGLE = (
  *(WIDTH, HEIGHT, COMPRESSION, PHOTOMETRIC, ORIENTATION, SAMPLES, ROWS, PLANES),
  *(TILE_WIDTH, TILE_HEIGHT, FILL, T4, T6, PREDICTOR),
)
"""Fields of one whole number."""

LISTS = (BITS, STRIPS, TILES, EXTRA, FORMAT, 279, 325, 320, 530)
"""Tags with several values: with bytes of strips and tiles, the palette, the
subsampling.
"""

OTHERS = (347, 529, 532)
"""Tables of JPEG, coefficients and reference of YCbCr."""

COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32773, 32946)
"""None, CCITT, LZW, JPEG, Deflate, PackBits. Others ask for memory as they like."""


@dataclasses.dataclass(frozen=True)
class Image:
  """Contents of the first directory.

  Attributes:
    width: as stored.
    height: as stored.
    held: pixels of all tiles or strips, which may reach beyond the image.
    orientation: 1 to 8, as EXIF has it.
    data: the file with no other directory.
  """

  width: int
  height: int
  held: int
  orientation: int
  data: bytes


def parse(data: bytes) -> Image:
  """Reads the first directory.

  Raises:
    ValueError: it cannot be read, or says what decoders do not stand.
    struct.error: the file ends too early.
  """
  order = '<' if data[:2] == b'II' else '>'
  (at,) = struct.unpack_from(f'{order}I', data, 4)
  (count,) = struct.unpack_from(f'{order}H', data, at)
  entries: dict[int, bytes] = {}
  values: dict[int, tuple[int, ...]] = {}
  for place in range(at + 2, at + 2 + 12 * count, 12):
    tag, kind, number = struct.unpack_from(f'{order}HHI', data, place)
    if tag in (*SINGLE, *LISTS, *OTHERS) and tag not in entries:
      values[tag] = _values(data, order, place, tag, kind, number)
      entries[tag] = data[place : place + 12]
  _check(values)
  width, height = values[WIDTH][0], values[HEIGHT][0]
  entries.pop(ORIENTATION, None)  # else Pillow turns the image, as our reader does
  kept = b''.join(entry for _, entry in sorted(entries.items()))
  padded = data + bytes(len(data) % 2)
  directory = struct.pack(f'{order}H', len(entries)) + kept + bytes(4)
  head = data[:4] + struct.pack(f'{order}I', len(padded))
  return Image(
    width,
    height,
    _held(values, width, height),
    values.get(ORIENTATION, (1,))[0],
    head + padded[8:] + directory,
  )


def _values(
  data: bytes, order: str, place: int, tag: int, kind: int, number: int
) -> tuple[int, ...]:
  """The whole numbers of a field; of others nothing, if only they are there."""
  size = SIZES.get(kind, 0) * number
  at = place + 8
  if size > 4:
    (at,) = struct.unpack_from(f'{order}I', data, at)
  if not 0 < size <= len(data) - at:
    raise ValueError(f'its field {tag} is cut off')
  if tag in OTHERS:
    return ()
  letter = {1: 'B', 3: 'H', 4: 'I'}.get(kind)
  if letter is None or (tag in SINGLE and number != 1):
    raise ValueError(f'its field {tag} is no whole number')
  return struct.unpack_from(f'{order}{number}{letter}', data, at)


def _check(values: dict[int, tuple[int, ...]]) -> None:
  """Complains of what is missing, and of kinds of pixels that would come out wrong."""
  for tag in (WIDTH, HEIGHT, PHOTOMETRIC):
    if tag not in values:
      raise ValueError(f'its field {tag} is missing')
  if not (values[WIDTH][0] and values[HEIGHT][0]):
    raise ValueError('it has no pixels')
  compression = values.get(COMPRESSION, (1,))[0]
  if compression not in COMPRESSIONS:
    raise ValueError(f'its compression {compression} is not read')
  bits, formats = set(values.get(BITS, (1,))), set(values.get(FORMAT, (1,)))
  if len(bits) != 1 or not bits <= {1, 2, 4, 8, 16} or formats != {1}:
    raise ValueError(f'its values are of {sorted(bits)} bits and formats {formats}')
  if bits == {16} and values[PHOTOMETRIC] == (0,):
    raise ValueError('its 16 bits count from white')


def _held(values: dict[int, tuple[int, ...]], width: int, height: int) -> int:
  """Pixels of all tiles or strips, each of which has to be there."""
  tiled = TILES in values
  parts = values.get(TILES if tiled else STRIPS, ())
  if tiled:
    part_width, part_height = (
      values.get(t, (0,))[0] for t in (TILE_WIDTH, TILE_HEIGHT)
    )
  else:
    part_width, part_height = width, min(height, values.get(ROWS, (height,))[0])
  if not (part_width and part_height):
    raise ValueError('its parts have no size')
  across, down = -(-width // part_width), -(-height // part_height)
  planes = values.get(SAMPLES, (1,))[0] if values.get(PLANES, (1,))[0] == 2 else 1
  if len(parts) < across * down * planes:
    raise ValueError(f'{across * down * planes} parts, of which {len(parts)} are there')
  return across * part_width * down * part_height
