"""Still images in ISO's container: AVIF and HEIC.

The size of the image stands in a property; streams inside may claim another, for which
decoders make room before they compare. So both are read here, and tracks of animations
are hidden, so that it is the still image that is decoded.

Boxes: ISO 14496-12 and 23008-12 (HEIF); sequence headers: AV1, section 5.5.
"""

import dataclasses
import struct
from collections.abc import Iterator

AVIF_BRANDS = (b'avif', b'avis')
HEIC_BRANDS = (b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'mif1', b'msf1')
SEQUENCE_HEADER = 1
TURNED = {0: (1, 2, 4), 1: (8, 7, 5), 2: (3, 4, 2), 3: (6, 5, 7)}
"""EXIF's orientation by quarter turns to the left, and then no mirroring, that of left
and right, that of top and bottom."""


@dataclasses.dataclass(frozen=True)
class Image:
  """The primary image of a file.

  Attributes:
    width: as stored.
    height: as stored.
    held: pixels of the largest picture that a stream or a grid inside claims.
    orientation: 1 to 8, as EXIF has it.
    data: the file without tracks.
  """

  width: int
  height: int
  held: int
  orientation: int
  data: bytes


@dataclasses.dataclass(frozen=True)
class _Item:
  """Stream of a file: its kind and the place of its bytes."""

  kind: bytes
  data: bytes


def brands(data: bytes) -> tuple[bytes, ...]:
  """Brands that a file declares; empty if it is no such container."""
  if data[4:8] != b'ftyp' or len(data) < 12:
    return ()
  end = min(int.from_bytes(data[:4]), len(data))
  return (data[8:12], *(data[at : at + 4] for at in range(16, end, 4)))


def is_avif(data: bytes) -> bool:
  """True if a file declares that it is AVIF."""
  return any(brand in AVIF_BRANDS for brand in brands(data))


def is_heic(data: bytes) -> bool:
  """True if a file declares that it is HEIC, and not AVIF."""
  return not is_avif(data) and any(brand in HEIC_BRANDS for brand in brands(data))


def parse(data: bytes) -> Image:
  """Reads sizes.

  Raises:
    ValueError: there is no still image, or boxes are not as they should be.
    struct.error, IndexError: the file ends too early.
  """
  boxes = list(_boxes(data, 0, len(data)))
  meta = _only(boxes, b'meta')
  inner = list(_boxes(data, meta[0] + 4, meta[1]))
  (primary,) = _numbers(data, _only(inner, b'pitm')[0])
  width, height, turn, mirror = _properties(data, _only(inner, b'iprp'), primary)
  items = _items(data, inner)
  if primary not in items:
    raise ValueError('its image is missing')
  sizes = [size for item in items.values() for size in _claims(item)]
  held = max([width * height, *(w * h for w, h in sizes)])
  orientation = TURNED[turn][mirror]
  return Image(width, height, held, orientation, _still(data, boxes))


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
  """Kind, begin and end of the content of boxes, one after the other."""
  while at + 8 <= end:
    size, kind = struct.unpack_from('>I4s', data, at)
    begin = at + 8
    if size == 1:
      (size,) = struct.unpack_from('>Q', data, begin)
      begin += 8
    after = at + size if size else end
    if not begin <= after <= end:
      raise ValueError('a box in it is cut off')
    yield kind, begin, after
    at = after


def _only(boxes: list[tuple[bytes, int, int]], kind: bytes) -> tuple[int, int]:
  found = [box[1:] for box in boxes if box[0] == kind]
  if len(found) != 1:
    raise ValueError(
      f'{len(found)} boxes {kind.decode("latin-1")!r} where one has to be'
    )
  return found[0]


def _numbers(data: bytes, at: int) -> tuple[int]:
  """The number of an item behind a version that says how long it is."""
  return struct.unpack_from('>I' if data[at] else '>H', data, at + 4)


def _properties(
  data: bytes, iprp: tuple[int, int], primary: int
) -> tuple[int, int, int, int]:
  """Width, height, quarter turns and mirroring of an item."""
  boxes = list(_boxes(data, *iprp))
  listed = list(_boxes(data, *_only(boxes, b'ipco')))
  size, turn, mirror = None, 0, 0
  for number in _associated(data, boxes, primary):
    kind, at, _ = listed[number - 1]
    if kind == b'ispe':
      size = struct.unpack_from('>II', data, at + 4)
    elif kind == b'irot':
      turn = data[at] & 3
    elif kind == b'imir':
      mirror = 2 - (data[at] & 1)  # axis 1: left and right
  if size is None or not min(size):
    raise ValueError('its size is missing')
  return *size, turn, mirror


def _associated(
  data: bytes, boxes: list[tuple[bytes, int, int]], primary: int
) -> Iterator[int]:
  """Numbers, from 1, of the properties of an item."""
  for kind, begin, _ in boxes:
    if kind != b'ipma':
      continue
    wide = data[begin + 3] & 1
    (count,) = struct.unpack_from('>I', data, begin + 4)
    at = begin + 8
    for _ in range(count):
      (item,) = struct.unpack_from('>I' if data[begin] else '>H', data, at)
      at += 4 if data[begin] else 2
      many = data[at]
      found = struct.unpack_from(f'>{many}{"H" if wide else "B"}', data, at + 1)
      at += 1 + many * (2 if wide else 1)
      if item == primary:
        mask = 0x7FFF if wide else 0x7F
        yield from (each & mask for each in found if each & mask)


def _items(data: bytes, inner: list[tuple[bytes, int, int]]) -> dict[int, _Item]:
  """Every item by its number."""
  kinds = {}
  begin, end = _only(inner, b'iinf')
  for kind, at, _ in _boxes(data, begin + (8 if data[begin] else 6), end):
    if kind == b'infe' and data[at] in (2, 3):
      short = data[at] == 2
      number, _, name = struct.unpack_from('>HH4s' if short else '>IH4s', data, at + 4)
      kinds[number] = name
  stored = next((box[1] for box in inner if box[0] == b'idat'), 0)
  return {
    number: _Item(kinds.get(number, b''), content)
    for number, content in _contents(data, _only(inner, b'iloc')[0], stored)
  }


def _contents(data: bytes, at: int, stored: int) -> Iterator[tuple[int, bytes]]:
  """Number and bytes of every item; `stored` is where those lie that `meta` holds."""
  version, (sizes,) = data[at], struct.unpack_from('>H', data, at + 4)
  offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
  index = index if version else 0
  cursor, left = at + 6, 2 * len(data)

  def take(size: int) -> int:
    nonlocal cursor
    if cursor + size > len(data):
      raise ValueError('its list of items is cut off')
    cursor += size
    return int.from_bytes(data[cursor - size : cursor])

  for _ in range(take(4 if version == 2 else 2)):
    number = take(4 if version == 2 else 2)
    method = take(2) & 15 if version else 0
    take(2)
    begin = take(base) + (stored if method == 1 else 0)
    parts = []
    for _ in range(take(2)):
      take(index)
      start, size = begin + take(offset), take(length)
      parts.append(data[start : start + size if size else None])
      left -= len(parts[-1])
      if left < 0 or method > 1:
        raise ValueError('its items overlap, or are made of one another')
    yield number, b''.join(parts)


def _claims(item: _Item) -> Iterator[tuple[int, int]]:
  """Sizes of pictures that an item claims."""
  if item.kind == b'grid':
    wide = item.data[1] & 1
    yield struct.unpack_from('>II' if wide else '>HH', item.data, 4)
  if item.kind != b'av01':
    return
  data, at = item.data, 0
  while at < len(data):
    head = data[at]
    at += 2 if head & 4 else 1
    size = len(data) - at
    if head & 2:
      size, at = _leb128(data, at)
    if head >> 3 & 15 == SEQUENCE_HEADER:
      yield _sequence_size(data[at : at + size])
    at += size


def _leb128(data: bytes, at: int) -> tuple[int, int]:
  """A number of seven bits a byte, and where it ends."""
  value = 0
  for place in range(8):
    value |= (data[at + place] & 127) << 7 * place
    if not data[at + place] & 128:
      return value, at + place + 1
  raise ValueError('a number in it has no end')


def _sequence_size(data: bytes) -> tuple[int, int]:
  """Largest width and height of the frames that an AV1 sequence header announces."""
  bits, at = int.from_bytes(data[:256]), 8 * len(data[:256])

  def take(count: int) -> int:
    nonlocal at
    at -= count
    if at < 0:
      raise ValueError('its sequence header is cut off')
    return bits >> at & (1 << count) - 1

  take(4)
  if take(1):  # of one still picture
    take(5)
  else:
    _skip_operating_points(take)
  across, down = take(4) + 1, take(4) + 1
  return take(across) + 1, take(down) + 1


def _skip_operating_points(take) -> None:
  """Goes over what stands before the size."""
  delay = 0
  if take(1):  # timing
    take(64)
    if take(1):
      zeros = 0
      while not take(1):
        zeros += 1
      take(zeros)
    if take(1):  # model of a decoder
      delay = take(5) + 1
      take(42)
  shown = take(1)
  for _ in range(take(5) + 1):
    take(12)
    if take(5) > 7:
      take(1)
    if delay and take(1):
      take(2 * delay + 1)
    if shown and take(1):
      take(4)


def _still(data: bytes, boxes: list[tuple[bytes, int, int]]) -> bytes:
  """The file without tracks, and without the claim that there are any."""
  edited = bytearray(data)
  for kind, begin, end in boxes:
    if kind == b'moov':
      place = data.rindex(b'moov', 0, begin)  # a length of 64 bits may stand between
      edited[place : place + 4] = b'free'
    if kind == b'ftyp':
      for at in range(begin, end, 4):
        if edited[at : at + 4] == b'avis':
          edited[at : at + 4] = b'avif'
  return bytes(edited)
