"""Damaged and odd picture files, made on the spot, and whether each can be decoded."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, features

RANDOM = np.random.default_rng(0)
HUGE = 50_000  # pixels a side
NOISE = RANDOM.bytes(400)
PICTURE = Image.fromarray(RANDOM.integers(0, 256, (5, 8, 3), np.uint8)).resize((64, 40))
GREY_16 = RANDOM.integers(0, 2**16, (16, 16), np.uint16)


def save(picture: Image.Image, kind: str, **options) -> bytes:
  buffer = io.BytesIO()
  picture.save(buffer, kind, **options)
  return buffer.getvalue()


KINDS = {kind: save(PICTURE, kind) for kind in ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP')}
JPEG, PNG, WEBP, GIF, BMP = KINDS.values()
KINDS |= {
  'TIFF': save(PICTURE, 'TIFF'),
  'LZW TIFF': save(PICTURE, 'TIFF', compression='tiff_lzw'),
  'PPM': save(PICTURE, 'PPM'),
  'plain PPM': b'P3 8 8 255\n' + b' '.join(b'%d' % n for n in range(192)),
}
if features.check('avif'):
  KINDS['AVIF'] = save(PICTURE, 'AVIF')
TIFF = KINDS['TIFF']


def chunk(name: bytes, data: bytes, *, crc: int | None = None) -> bytes:
  """A chunk of a PNG."""
  crc = zlib.crc32(name + data) if crc is None else crc
  return struct.pack('>I4s', len(data), name) + data + struct.pack('>I', crc)


def ihdr(width: int, height: int, depth=8, color=2, interlace=0) -> bytes:
  fields = struct.pack('>IIBBBBB', width, height, depth, color, 0, 0, interlace)
  return chunk(b'IHDR', fields)


def png(*chunks: bytes) -> bytes:
  return b'\x89PNG\r\n\x1a\n' + b''.join(chunks) + chunk(b'IEND', b'')


def idat(data: bytes) -> bytes:
  return chunk(b'IDAT', zlib.compress(data))


PIXELS = idat(bytes([0, *range(24)] * 8))  # 8 x 8 of RGB, no filter


def after_header(*chunks: bytes) -> bytes:
  """A good PNG with further chunks."""
  return png(ihdr(8, 8), *chunks, PIXELS)


def interlaced() -> bytes:
  """8 x 8 of grey in the seven passes of Adam7."""
  passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]
  passes += [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
  rows = [
    bytes([0, *(8 * y + x for x in range(left, 8, across))])
    for left, top, across, down in passes
    for y in range(top, 8, down)
  ]
  return png(ihdr(8, 8, color=0, interlace=1), idat(b''.join(rows)))


def segment(marker: int, data: bytes) -> bytes:
  return struct.pack('>BBH', 0xFF, marker, len(data) + 2) + data


def with_segment(marker: int, data: bytes) -> bytes:
  """A good JPEG with a further segment in front."""
  return JPEG[:2] + segment(marker, data) + JPEG[2:]


def exif(orientation: int, *, order='<', count=1, at=8, kind=3) -> bytes:
  head = b'II*\0' if order == '<' else b'MM\0*'
  entry = struct.pack(f'{order}HHIHH', 0x0112, kind, 1, orientation, 0)
  return head + struct.pack(f'{order}IH', at, count) + entry + bytes(4)


def in_jpeg(data: bytes) -> bytes:
  return with_segment(0xE1, b'Exif\0\0' + data)


def frame(width: int, height: int, components=3, marker=0xC0, depth=8) -> bytes:
  """The header of a JPEG's frame."""
  size = struct.pack('>BHHB', depth, height, width, components)
  return segment(marker, size + b''.join(bytes([i, 17, 0]) for i in range(components)))


def replaced_frame(new: bytes) -> bytes:
  """The good JPEG with another header of its frame."""
  at = JPEG.index(b'\xff\xc0')
  return JPEG[:at] + new + JPEG[at + 19 :]


def webp(name: bytes, data: bytes) -> bytes:
  body = b'WEBP' + name + struct.pack('<I', len(data)) + data + bytes(len(data) % 2)
  return b'RIFF' + struct.pack('<I', len(body)) + body


def vp8x(width: int, height: int) -> bytes:
  sides = (side.to_bytes(3, 'little') for side in (width - 1, height - 1))
  return webp(b'VP8X', bytes(4) + b''.join(sides))


def vp8l(width: int, height: int) -> bytes:
  return webp(b'VP8L', b'/' + struct.pack('<I', width - 1 | (height - 1) << 14) + NOISE)


def gif(screen: tuple[int, int], *blocks: bytes) -> bytes:
  head = b'GIF89a' + struct.pack('<HHBBB', *screen, 0x80, 0, 0)
  return head + b'\0\0\0\xff\xff\xff' + b''.join(blocks) + b';'


def gif_frame(left: int, top: int, width: int, height: int, code=2) -> bytes:
  """Two by two pixels of data, or less than is needed."""
  place = struct.pack('<BHHHHB', 0x2C, left, top, width, height, 0)
  return place + bytes([code, 3, 0x44, 0x02, 0x05, 0])


def bmp(width: int, height: int, *, header=40, bits=24, data=bytes(48)) -> bytes:
  fields = struct.pack('<IiiHHIIIIII', header, width, height, 1, bits, 0, 0, 0, 0, 0, 0)
  return b'BM' + struct.pack('<IHHI', 54 + len(data), 0, 0, 54) + fields + data


def field(tag: int, value: int, kind=4, count=1) -> bytes:
  """An entry of a TIFF's directory."""
  return struct.pack('<HHII', tag, kind, count, value)


def tiff(*fields: bytes, data=bytes(192)) -> bytes:
  """8 x 8 of RGB, changed by further fields, which stand first."""
  usual = [(256, 8), (257, 8), (262, 2), (273, 8), (277, 3), (279, 192), (258, 8)]
  tags = [struct.unpack_from('<H', each)[0] for each in fields]
  entries = [*fields, *(field(*each) for each in usual if each[0] not in tags)]
  directory = struct.pack('<H', len(entries)) + b''.join(entries) + bytes(4)
  return b'II*\0' + struct.pack('<I', 8 + len(data)) + data + directory


def avif(width: int, height: int, ispe: tuple[int, int] | None = None) -> bytes:
  """A picture that may claim another size."""
  data = save(Image.new('L', (width, height)), 'AVIF')
  at = data.index(b'ispe') + 8
  return edited(data, at, struct.pack('>II', *ispe or (width, height)))


def edited(data: bytes, at: int, new: bytes) -> bytes:
  at %= len(data)
  return data[:at] + new + data[at + len(new) :]


def scans(count: int) -> bytes:
  """A progressive JPEG whose last scan comes so many times more, and no end."""
  whole = save(PICTURE, 'JPEG', progressive=True)[:-2]
  return whole + whole[whole.rindex(b'\xff\xda') :] * count


ANIMATION = {'save_all': True, 'append_images': [PICTURE.rotate(90)]}
CLEAR = PICTURE.convert('RGBA')
CLEAR.putalpha(100)
BOMB = zlib.compress(bytes(2**25))  # 32 MiB of zeros in 32 KiB

DECODES: dict[str, bytes] = {
  **{
    f'{kind} and more': data + NOISE
    for kind, data in KINDS.items()
    if kind not in ('AVIF', 'plain PPM')
  },
  'plain PPM': KINDS['plain PPM'],
  **{
    f'{mode} as PNG': save(PICTURE.convert(mode), 'PNG')
    for mode in ('1', 'L', 'LA', 'P', 'RGBA')
  },
  **{
    f'{mode} as TIFF': save(PICTURE.convert(mode), 'TIFF')
    for mode in ('1', 'L', 'LA', 'P', 'RGBA', 'CMYK')  # YCbCr: not by every Pillow
  },
  **{
    f'TIFF by {name}': save(PICTURE, 'TIFF', compression=name)
    for name in ('tiff_adobe_deflate', 'packbits', 'jpeg')
  },
  'TIFF of a fax': save(PICTURE.convert('1'), 'TIFF', compression='group4'),
  'TIFF of pages': save(PICTURE, 'TIFF', **ANIMATION),
  'TIFF from the big end': save(PICTURE, 'TIFF', big_endian=True) + b'big',
  '16-bit TIFF': save(Image.fromarray(GREY_16), 'TIFF'),
  '16-bit TIFF by LZW': save(Image.fromarray(GREY_16), 'TIFF', compression='tiff_lzw'),
  'TIFF by hand': tiff(),
  'TIFF in tiles': tiff(
    *(field(322, 16), field(323, 16), field(324, 8), field(325, 768)),
    data=bytes(768),
  ),
  'TIFF of many fields': tiff(*(field(n, 8, 7, 150) for n in range(40_000, 60_000))),
  'TIFF with a field of noise': tiff(field(34665, 2**31)),
  'grey PPM': save(PICTURE.convert('L'), 'PPM'),
  '1-bit PPM': save(PICTURE.convert('1'), 'PPM'),
  '16-bit PPM': b'P5 4 4 65535\n' + NOISE[:32],
  'PPM with comments': b'P6 # a\n# 9 9\n2 # b\n2\n255\n' + bytes(12),
  'progressive JPEG': save(PICTURE, 'JPEG', progressive=True),
  'a scan twice': scans(1) + b'\xff\xd9',
  'grey JPEG': save(PICTURE.convert('L'), 'JPEG'),
  'CMYK JPEG': save(PICTURE.convert('CMYK'), 'JPEG'),
  'full chroma JPEG': save(PICTURE, 'JPEG', subsampling=0),
  'lossless WebP': save(PICTURE, 'WEBP', lossless=True),
  'transparent WebP': save(CLEAR, 'WEBP'),
  'animated WebP': save(PICTURE, 'WEBP', **ANIMATION),
  'animated GIF': save(PICTURE, 'GIF', **ANIMATION),
  'animated PNG': save(PICTURE, 'PNG', **ANIMATION),
  'transparent GIF': save(PICTURE.convert('P'), 'GIF', transparency=3),
  'transparent palette': save(
    PICTURE.convert('P'), 'PNG', transparency=bytes(range(99))
  ),
  'transparent grey': save(PICTURE.convert('L'), 'PNG', transparency=7),
  '1-bit BMP': save(PICTURE.convert('1'), 'BMP'),
  'palette BMP': save(PICTURE.convert('P'), 'BMP'),
  'BMP from the top': bmp(4, -4),
  '16-bit grey': save(Image.fromarray(GREY_16), 'PNG'),
  '16-bit colour': png(ihdr(2, 2, depth=16), idat((b'\0' + NOISE[:12]) * 2)),
  '16-bit transparent': png(ihdr(2, 2, 16, 6), idat((b'\0' + NOISE[:16]) * 2)),
  '2-bit grey': png(ihdr(8, 8, 2, 0), idat(b'\0\x1b\x1b' * 8)),
  'interlaced': interlaced(),
  'one pixel': save(Image.new('RGB', (1, 1)), 'PNG'),
  'one pixel JPEG': save(Image.new('RGB', (1, 1)), 'JPEG'),
  'one column': save(Image.new('RGB', (1, 10_000)), 'PNG'),
  'one row': save(Image.new('RGB', (10_000, 1)), 'JPEG'),
  'as large as allowed': save(Image.new('L', (1000, 1000)), 'PNG'),
  **{f'orientation {i}': in_jpeg(exif(i)) for i in (*range(10), 65535)},
  'orientation, big end': in_jpeg(exif(6, order='>')),
  'orientation in a PNG': after_header(chunk(b'eXIf', exif(6))),
  'orientation in a WebP': save(PICTURE, 'WEBP', exif=exif(8)),
  'empty EXIF': in_jpeg(b''),
  'EXIF without end': in_jpeg(exif(6)[:16]),
  'EXIF that points away': in_jpeg(exif(6, at=2**31)),
  'EXIF of many entries': in_jpeg(exif(6, count=65535)),
  'EXIF of no type': in_jpeg(exif(6, kind=99)),
  'EXIF of noise': in_jpeg(b'II*\0' + NOISE),
  'EXIF of noise in a PNG': after_header(chunk(b'eXIf', NOISE)),
  'EXIF of noise in a WebP': save(PICTURE, 'WEBP', exif=NOISE),
  'profile of noise': save(PICTURE, 'JPEG', icc_profile=NOISE),
  'profile of noise in a PNG': after_header(chunk(b'iCCP', b'x\0\0' + NOISE)),
  'profile of noise in a WebP': save(PICTURE, 'WEBP', icc_profile=NOISE),
  'Photoshop of noise': with_segment(0xED, b'Photoshop 3.0\x008BIM' + NOISE),
  'several pictures of noise': with_segment(0xE2, b'MPF\0II*\0' + NOISE),
  'scans in a film behind': JPEG + b'\xff\xda' * 99,
  'comment': with_segment(0xFE, NOISE),
  'filling between segments': JPEG[:2] + b'\xff' * 9 + JPEG[2:],
  'bomb of text': after_header(chunk(b'zTXt', b'x\0\0' + BOMB)),
  'bomb of international text': after_header(chunk(b'iTXt', b'x\0\1\0\0\0' + BOMB)),
  'bomb of a profile': after_header(chunk(b'iCCP', b'x\0\0' + BOMB)),
  'bomb behind the pixels': png(ihdr(8, 8), PIXELS, chunk(b'IDAT', BOMB)),
  'wrong sum of a text': after_header(chunk(b'tEXt', b'x\0y', crc=1)),
  'wrong sum of the pixels': png(ihdr(8, 8), chunk(b'IDAT', PIXELS[8:-4], crc=1)),
  'animation of no frames': after_header(chunk(b'acTL', bytes(8))),
  'animation cut off': after_header(chunk(b'acTL', b'')),
  'PNG without end': png(ihdr(8, 8), PIXELS)[:-12],
  'unknown chunk': after_header(chunk(b'juNK', NOISE)),
  'GIF of one frame': gif((2, 2), gif_frame(0, 0, 2, 2)),
  'GIF with a comment': gif((2, 2), b'!\xfe\x03abc\0', gif_frame(0, 0, 2, 2)),
  'frame outside the screen': gif((2, 2), gif_frame(5, 7, 2, 2)),
  'no screen': gif((0, 0), gif_frame(0, 0, 2, 2)),
}

PROSE = {
  'nothing': b'',
  'one byte': b'\xff',
  'text': b'a picture of a panda',
  'text like a BMP': b'BMW is a maker of cars, and this is no picture of one.',
  'HTML': b'<!DOCTYPE html><html><body>404 Not Found</body></html>',
  'SVG': b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
  'PDF': b'%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n',
  'EPS': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n',
  'text like a PPM': b'P6 is a name of a file format',
  'XBM': b'#define a_width 8\n#define a_height 1\nstatic char a_bits[] = {0};',
}
MAGIC = {
  'JPEG': b'\xff\xd8\xff\xe0',
  'PNG': b'\x89PNG\r\n\x1a\n',
  'WebP': b'RIFF\x90\1\0\0WEBPVP8 ',
  'GIF87a': b'GIF87a',
  'GIF89a': b'GIF89a',
  'BMP': b'BM',
  'TIFF': b'II*\0',
  'big-end TIFF': b'MM\0*',
  'ICO': b'\0\0\1\0\1\0',
  'PSD': b'8BPS\0\1',
  'JPEG 2000': b'\0\0\0\x0cjP  \r\n\x87\n',
  'AVIF': b'\0\0\0 ftypavif',
  'DDS': b'DDS ',
  'sound': b'RIFF\x90\1\0\0WAVEfmt ',
  'ZIP': b'PK\3\4',
  'gzip': b'\x1f\x8b\x08',
  'program': b'\x7fELF',
}
BOMBS = {
  'PNG': png(ihdr(HUGE, HUGE), PIXELS),
  'PNG, honest': png(ihdr(4000, 4000, color=0), chunk(b'IDAT', BOMB)),
  'PNG, interlaced': png(ihdr(HUGE, HUGE, interlace=1), PIXELS),
  'PNG, one row': png(ihdr(2**31 - 1, 1), PIXELS),
  'JPEG': replaced_frame(frame(65500, 65500)),
  'JPEG, progressive': replaced_frame(frame(65500, 65500, marker=0xC2)),
  'JPEG of two sizes': replaced_frame(frame(65500, 65500) + frame(64, 40)),
  'WebP, lossy': edited(WEBP, 26, struct.pack('<HH', 16383, 16383)),
  'WebP, lossless': vp8l(16384, 16384),
  'WebP, extended': vp8x(2**24, 2**24),
  'GIF': gif((65535, 65535), gif_frame(0, 0, 2, 2)),
  'GIF, frame': gif((2, 2), gif_frame(0, 0, 12_000, 10_000)),
  'GIF, far away': gif((2, 2), gif_frame(65535, 65535, 2, 2)),
  'BMP': bmp(HUGE, HUGE),
  'PNG, one column': png(ihdr(1, 10**8 - 1), PIXELS),
  'PNG, one long row': png(ihdr(10**6, 1), idat(bytes(3 * 10**6 + 1))),
  'BMP, one long row': bmp(10**6, 1, data=bytes(3 * 10**6)),
  'TIFF': tiff(field(256, HUGE), field(257, HUGE)),
  'TIFF, one row': tiff(field(256, 2**32 - 1), field(257, 1)),
  'TIFF, tiles': tiff(field(322, 2**16), field(323, 2**16), field(324, 8)),
  'TIFF, thin tiles': tiff(field(322, 2**32 - 1), field(323, 1), field(324, 8)),
  'TIFF, samples': tiff(field(277, 2**32 - 1)),
  'PPM': b'P6 50000 50000 255\n' + NOISE,
  'PPM, one row': b'P5 999999999 1 255\n' + NOISE,
  'BMP, short header': bmp(0, 0, header=12, data=b'\xff' * 64),
}
if features.check('avif'):
  DECODES |= {
    'transparent AVIF': save(CLEAR, 'AVIF'),
    'animated AVIF': save(PICTURE, 'AVIF', **ANIMATION),
    'orientation in an AVIF': save(PICTURE, 'AVIF', exif=exif(8)),
    'profile of noise in an AVIF': save(PICTURE, 'AVIF', icc_profile=NOISE),
  }
  BOMBS |= {
    'AVIF': avif(64, 40, (16384, 16384)),
    'AVIF, one row': avif(64, 40, (2**32 - 1, 1)),
    'AVIF, inside': avif(2000, 1000, (64, 40)),
  }
REFUSED: dict[str, bytes] = {
  **PROSE,
  **{
    f'{kind} cut at {share}%': data[: len(data) * share // 100]
    for kind, data in KINDS.items()
    for share in (2, 10, 30, 60, 90)
  },
  **{f'noise like {name}': magic + NOISE for name, magic in MAGIC.items()},
  **{f'nothing but {name}': MAGIC[name] for name in ('JPEG', 'PNG', 'WebP', 'GIF89a')},
  **{f'bomb: {name}': data for name, data in BOMBS.items()},
  'a pixel too many': save(Image.new('L', (1001, 1000)), 'PNG'),
  'TIFF of floats': save(PICTURE.convert('F'), 'TIFF'),
  'TIFF of 32 bits': save(PICTURE.convert('I'), 'TIFF'),
  'TIFF by LZMA': save(PICTURE, 'TIFF', compression='lzma'),
  'TIFF without fields': b'II*\0\x08\0\0\0\0\0\0\0\0\0',
  'TIFF of no width': tiff(field(256, 0)),
  'TIFF of two widths': tiff(field(256, 8, 4, 2)),
  'TIFF that points away': tiff(field(273, 2**31, 4, 9)),
  'TIFF with too few strips': tiff(field(278, 1)),
  'TIFF with too little': tiff(field(257, 1000)),
  'TIFF without a directory': edited(TIFF, 4, b'\xff\xff\xff\x7f'),
  'BigTIFF': b'II+\0\x08\0\0\0' + NOISE,
  'PPM of one number': b'P6 2 ' + bytes(12),
  'PPM with too little': b'P6 9 9 255\n' + bytes(12),
  'PPM of words': b'P3 2 2 255\nred green blue',
  'HEIC of noise': b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + NOISE,
  'AVIF without an image': b'\0\0\0\x18ftypavif\0\0\0\0mif1avif',
  'ICO': save(PICTURE, 'ICO'),
  'wrong sum of the header': edited(PNG, 29, b'\0\0\0\0'),
  'no pixels': png(ihdr(8, 8)),
  'empty pixels': png(ihdr(8, 8), chunk(b'IDAT', b'')),
  'pixels of noise': png(ihdr(8, 8), chunk(b'IDAT', NOISE)),
  'too few pixels': png(ihdr(8, 8), idat(b'\0' * 9)),
  'unknown filter': png(ihdr(8, 8), idat(bytes([9, *range(24)] * 8))),
  'header missing': png(PIXELS),
  'no width': png(ihdr(0, 8), PIXELS),
  'three bits': png(ihdr(8, 8, depth=3), PIXELS),
  'unknown colours': png(ihdr(8, 8, color=7), PIXELS),
  'long chunk': after_header(b'\x7f\xff\xff\xffIDAT'),
  'PNG sent as text': PNG.replace(b'\r\n', b'\n'),
  'no height': replaced_frame(frame(64, 0)),
  'frame cut off': replaced_frame(frame(64, 40)[:7]),
  '12 bits': replaced_frame(frame(64, 40, depth=12)),
  'seven colours': replaced_frame(frame(64, 40, components=7)),
  'no colours': replaced_frame(frame(64, 40, components=0)),
  'frame missing': replaced_frame(b''),
  'two frames': replaced_frame(frame(64, 40) * 2),
  'scan missing': JPEG[: JPEG.index(b'\xff\xda')] + b'\xff\xd9',
  'scan without tables': JPEG[:2] + frame(64, 40) + JPEG[JPEG.index(b'\xff\xda') :],
  'many scans': scans(99) + b'\xff\xd9',
  'many scans without end': scans(99),
  'noise between segments': JPEG[:2] + NOISE + JPEG[2:],
  'Adobe cut off': with_segment(0xEE, b'Adobe'),
  'segment of length 0': JPEG[:2] + b'\xff\xe1\0\0' + JPEG[2:],
  'WebP of nothing': webp(b'JUNK', NOISE),
  'WebP without a picture': vp8x(64, 40),
  'lossless noise': vp8l(64, 40),
  'GIF without frames': gif((2, 2)),
  'GIF of large codes': gif((2, 2), gif_frame(0, 0, 2, 2, code=99)),
  'GIF with too little': gif((9, 9), gif_frame(0, 0, 9, 9)),
  'frame of no size': gif((2, 2), gif_frame(0, 0, 0, 0))[:40],
  'comment without end': gif((2, 2))[:-1] + b'!\xfe' + b'\x04abcd' * 9,
  'BMP with an odd header': bmp(4, 4, header=7),
  'BMP of 13 bits': bmp(4, 4, bits=13),
  'BMP of no width': bmp(0, 4),
  'BMP with too little': bmp(40, 40),
}
