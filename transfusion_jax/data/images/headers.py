"""Headers of image files, read before a decoder is given anything.

Pictures of the web are untrusted: a few bytes may claim a picture that fills the
memory, and texts, profiles and thumbnails inside them are what decoders stumble over
and warn of. So the size is read here, and metadata is taken out.
"""

import dataclasses
import re
import struct

from transfusion_jax.data.images import iso_media, tiff

JPEG, PNG, WEBP, GIF, BMP = 'JPEG', 'PNG', 'WebP', 'GIF', 'BMP'
TIFF, PNM, AVIF, HEIC = 'TIFF', 'PNM', 'AVIF', 'HEIC'

ENDINGS = (
  *('.jpg', '.jpeg', '.png', '.webp', '.gif', '.bmp', '.tiff', '.tif'),
  *('.jfif', '.jpe', '.apng', '.avif', '.heic', '.heif'),
  *('.ppm', '.pgm', '.pbm', '.pnm'),
)
"""Endings of the names of image files; the kind is decided by their first bytes."""

PNG_KEPT = (b'IHDR', b'PLTE', b'tRNS', b'IDAT', b'IEND')
JPEG_DROPPED = (*range(0xE1, 0xEE), 0xEF, 0xFE)  # APPn but JFIF and Adobe; comments
JPEG_SIZES = (
  *range(0xC0, 0xC4),
  *range(0xC5, 0xC8),
  *range(0xC9, 0xCC),
  *range(0xCD, 0xD0),
)
JPEG_ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a length
JPEG_SCAN, JPEG_END = 0xDA, 0xD9
JPEG_NEXT = re.compile(rb'\xff[\x01-\xcf\xd8-\xfe]')  # inside a scan: what ends it
MOST_SCANS = 32
"""Largest number of scans of a JPEG. Encoders make about ten; each costs a walk through
the whole image, and needs so few bytes that a file of a megabyte could keep a decoder
busy for an hour.
"""


PNM_SPACE = rb'(?:\s|#[^\r\n]*[\r\n])+'
PNM_SIZE = re.compile(rb'P[1-6]%b(\d{1,9})%b(\d{1,9})\s' % (PNM_SPACE, PNM_SPACE))
PNM_HEAD = 4096
"""Bytes within which the size has to stand, whatever comments there are."""


@dataclasses.dataclass(frozen=True)
class PictureFile:
  """A file of one of the kinds above.

  Attributes:
    kind: how it is encoded.
    width: of the stored picture, or of the first of several.
    height: of the same.
    orientation: of EXIF, 1 to 8; 1, upright, if none can be read.
    data: the file, without metadata where they are easily taken out.
    held: pixels that a decoder makes room for, where that may be more than the
      picture's own; else 0.
  """

  kind: str
  width: int
  height: int
  orientation: int
  data: bytes
  held: int = 0


def kind(data: bytes) -> str | None:
  """The kind of file that these bytes begin, of those read here; None: another."""
  found = (
    (JPEG, data[:3] == b'\xff\xd8\xff'),
    (PNG, data[:8] == b'\x89PNG\r\n\x1a\n'),
    (WEBP, data[:4] == b'RIFF' and data[8:12] == b'WEBP'),
    (GIF, data[:6] in (b'GIF87a', b'GIF89a')),
    (BMP, data[:2] == b'BM'),
    (TIFF, data[:4] in (b'II*\0', b'MM\0*')),
    (PNM, data[:1] == b'P' and data[1:2] in b'123456' and data[2:3] in b' \t\r\n#'),
    (AVIF, iso_media.is_avif(data)),
    (HEIC, iso_media.is_heic(data)),
  )
  return next((name for name, matches in found if matches), None)


def parse(data: bytes) -> PictureFile:
  """Reads the header of a file.

  Raises:
    ValueError: it is of no kind that is read here, or ends too early.
  """
  readers = {
    JPEG: _jpeg,
    PNG: _png,
    WEBP: _webp,
    GIF: _gif,
    BMP: _bmp,
    TIFF: _tiff,
    PNM: _pnm,
    AVIF: _avif,
    HEIC: _heic,
  }
  reader = readers.get(kind(data))
  if reader is None:
    raise ValueError(f'no {", ".join(readers)}')
  try:
    return reader(data)
  except (struct.error, IndexError) as error:
    raise ValueError('its header is cut off') from error


def _jpeg(data: bytes) -> PictureFile:
  sizes, orientation, kept, at = [], 1, [data[:2]], 2
  while True:
    if data[at] != 0xFF:
      raise ValueError('no marker where one has to be')
    marker = data[at + 1]
    if marker == 0xFF or marker in JPEG_ALONE:
      at += 1 if marker == 0xFF else 2
      continue
    if marker == JPEG_SCAN:
      break
    end = at + 2 + struct.unpack_from('>H', data, at + 2)[0]
    if marker in JPEG_SIZES:
      sizes.append(struct.unpack_from('>HH', data, at + 5))
    if marker == 0xE1 and data[at + 4 : at + 10] == b'Exif\0\0':
      orientation = _orientation(data[at + 10 : end])
    if marker not in JPEG_DROPPED:
      kept.append(data[at:end])
    at = end
  if len(sizes) != 1:
    raise ValueError(f'{len(sizes)} frames')
  scans = _scans(data, at)
  if scans > MOST_SCANS:
    raise ValueError(f'{scans} scans')
  height, width = sizes[0]
  return PictureFile(JPEG, width, height, orientation, b''.join([*kept, data[at:]]))


def _scans(data: bytes, at: int) -> int:
  """Scans of a JPEG from the first one to the end of the picture."""
  count = 0
  while (found := JPEG_NEXT.search(data, at)) and found[0][1] != JPEG_END:
    count += found[0][1] == JPEG_SCAN
    at = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
  return count


def _png(data: bytes) -> PictureFile:
  if data[12:16] != b'IHDR':
    raise ValueError('no header')
  width, height = struct.unpack_from('>II', data, 16)
  orientation, kept, at = 1, [data[:8]], 8
  while at + 8 <= len(data):
    length, name = struct.unpack_from('>I4s', data, at)
    end = at + 12 + length
    if name == b'eXIf':
      orientation = _orientation(data[at + 8 : end])
    if name in PNG_KEPT:
      kept.append(data[at:end])
    at = end
  return PictureFile(PNG, width, height, orientation, b''.join(kept))


def _webp(data: bytes) -> PictureFile:
  name, orientation = data[12:16], 1
  if name == b'VP8 ':
    width, height = (side & 0x3FFF for side in struct.unpack_from('<HH', data, 26))
  elif name == b'VP8L':
    (bits,) = struct.unpack_from('<I', data, 21)
    width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
  elif name == b'VP8X':
    width, height = (
      int.from_bytes(struct.unpack_from('3s', data, at)[0], 'little') + 1
      for at in (24, 27)
    )
  else:
    raise ValueError('no picture in it')
  at = 12
  while at + 8 <= len(data):
    name, length = struct.unpack_from('<4sI', data, at)
    if name == b'EXIF':
      exif = data[at + 8 : at + 8 + length].removeprefix(b'Exif\0\0')
      orientation = _orientation(exif)
    at += 8 + length + length % 2
  return PictureFile(WEBP, width, height, orientation, data)


def _gif(data: bytes) -> PictureFile:
  width, height, flags = struct.unpack_from('<HHB', data, 6)
  at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
  while data[at] == 0x21:  # extensions
    at += 2
    while data[at]:
      at += 1 + data[at]
    at += 1
  if data[at] != 0x2C:
    raise ValueError('no picture in it')
  # The first picture may reach beyond the screen; Pillow then enlarges the screen.
  x, y, w, h = struct.unpack_from('<HHHH', data, at + 1)
  return PictureFile(GIF, max(width, x + w), max(height, y + h), 1, data)


def _bmp(data: bytes) -> PictureFile:
  (length,) = struct.unpack_from('<I', data, 14)
  width, height = struct.unpack_from('<HH' if length == 12 else '<ii', data, 18)
  return PictureFile(BMP, abs(width), abs(height), 1, data)


def _tiff(data: bytes) -> PictureFile:
  found = tiff.parse(data)
  size = (found.width, found.height)
  return PictureFile(TIFF, *size, found.orientation, found.data, found.held)


def _pnm(data: bytes) -> PictureFile:
  size = PNM_SIZE.match(data[:PNM_HEAD])
  if size is None:
    raise ValueError('its header is cut off')
  return PictureFile(PNM, int(size[1]), int(size[2]), 1, data)


def _avif(data: bytes) -> PictureFile:
  found = iso_media.parse(data)
  size = (found.width, found.height)
  return PictureFile(AVIF, *size, found.orientation, found.data, found.held)


def _heic(data: bytes) -> PictureFile:
  """Header of a HEIC file; its decoder applies the orientation itself."""
  found = iso_media.parse(data)
  size = (found.width, found.height)
  size = size[::-1] if found.orientation >= 5 else size
  return PictureFile(HEIC, *size, 1, found.data, found.held)


def _orientation(exif: bytes) -> int:
  """Tag 0x0112 of the first directory, or 1: upright."""
  order = {b'II*\0': '<', b'MM\0*': '>'}.get(exif[:4])
  if order is None:
    return 1
  try:
    (at,) = struct.unpack_from(f'{order}I', exif, 4)
    (count,) = struct.unpack_from(f'{order}H', exif, at)
    entries = (
      struct.unpack_from(f'{order}HHIH', exif, at + 2 + 12 * i) for i in range(count)
    )
    found = next((value for tag, _, _, value in entries if tag == 0x0112), 1)
  except struct.error:  # cut off or made up; the picture itself may be fine
    return 1
  return found if 1 <= found <= 8 else 1
