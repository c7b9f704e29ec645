"""Pictures of users: orientation, transparency, shape, crops, and broken files."""

import io
import os

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from transfusion_jax.data.images import image_files

RED, BLUE = (220, 30, 40), (20, 60, 200)


def save(picture: Image.Image, kind: str, **options) -> bytes:
  buffer = io.BytesIO()
  picture.save(buffer, kind, **options)
  return buffer.getvalue()


def config(height: int, width: int, **options) -> image_files.ImagesConfig:
  options = {'crop': 'center', 'smallest': 1, 'most_pixels': 10**7, **options}
  return image_files.ImagesConfig(height, width, **options)


def decode(data: bytes, height: int, width: int | None = None, **options) -> np.ndarray:
  return image_files.decode(data, config(height, width or height, **options), None)


def colours(height: int, width: int) -> np.ndarray:
  """A picture that varies slowly, another in every corner."""
  y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
  return np.stack([255 * y, 255 * x, 120 * (1 + np.sin(9 * x * y))], -1).astype(
    np.uint8
  )


def test_png_round_trip():
  pixels = np.random.default_rng(0).integers(256, size=(16, 24, 3), dtype=np.uint8)
  np.testing.assert_array_equal(decode(image_files.encode_png(pixels), 16, 24), pixels)


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'L', 'LA', 'P', '1', 'CMYK', 'I;16'])
def test_every_mode_takes_the_shape(mode):
  kind = 'JPEG' if mode == 'CMYK' else 'PNG'
  pixels = decode(save(Image.new(mode, (50, 20)), kind), 24, 40)
  assert pixels.shape == (24, 40, 3)
  assert pixels.dtype == np.uint8


@pytest.mark.parametrize(
  ('mode', 'kind', 'options'),
  [
    ('RGBA', 'PNG', {}),
    ('RGBA', 'WEBP', {'lossless': True, 'exact': True}),
    ('LA', 'PNG', {}),
    ('P', 'PNG', {'transparency': 0}),
    ('P', 'PNG', {'transparency': b'\0'}),
    ('P', 'GIF', {'transparency': 0}),
    ('RGB', 'PNG', {'transparency': (0, 0, 0)}),
    ('L', 'PNG', {'transparency': 0}),
    ('1', 'PNG', {'transparency': 0}),
  ],
)
def test_transparency_is_white(mode, kind, options):
  clear = Image.new(mode, (8, 8))  # of zeros: black, and clear where there is alpha
  assert not np.asarray(clear.convert('RGB')).any()
  assert (decode(save(clear, kind, **options), 8) == 255).all()


def test_half_transparent_and_reduced():
  """Clear pixels do not colour their neighbours."""
  picture = np.zeros((32, 32, 4), np.uint8)
  picture[:, ::2] = (*RED, 255)
  pixels = decode(save(Image.fromarray(picture), 'PNG'), 4)
  expected = (np.array(RED) + 255) / 2
  assert abs(pixels[1:3, 1:3] - expected).max() < 4


def test_the_middle_is_kept():
  picture = np.zeros((20, 60, 3), np.uint8)
  picture[:, 20:40] = 255
  assert (decode(image_files.encode_png(picture), 20) == 255).all()


@pytest.mark.parametrize('orientation', range(10))
def test_exif_orientation_turns_the_picture(orientation):
  picture = Image.fromarray(colours(48, 32))
  exif = Image.Exif()
  exif[0x0112] = orientation
  # Pillow's own reading of the tag is the reference.
  plain = exif.tobytes()
  named = b'Exif\0\0' + plain  # as some writers of WebP have it
  for kind, noted in (
    ('PNG', plain),
    ('JPEG', plain),
    ('WEBP', plain),
    ('WEBP', named),
  ):
    data = save(picture, kind, exif=noted)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert('RGB')
    assert upright.size == ((48, 32) if 5 <= orientation <= 8 else (32, 48))
    pixels = decode(data, upright.height, upright.width)
    np.testing.assert_array_equal(pixels, np.asarray(upright))


def test_the_wanted_shape_is_that_of_the_upright_picture():
  exif = Image.Exif()
  exif[0x0112] = 6
  lying = save(Image.fromarray(colours(30, 90)), 'PNG', exif=exif)
  standing = np.rot90(colours(30, 90), -1)
  expected = decode(image_files.encode_png(np.ascontiguousarray(standing)), 60, 20)
  assert abs(decode(lying, 60, 20).astype(int) - expected).max() <= 1


def test_reducing_is_antialiased():
  checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
  pixels = decode(image_files.encode_png(np.stack([checks] * 3, -1)), 8)
  assert abs(pixels.astype(int) - 127).max() < 10


def test_a_jpeg_decoded_at_a_fraction_looks_the_same(monkeypatch):
  noise = np.random.default_rng(0).integers(-20, 20, (800, 1000, 3))
  picture = (colours(800, 1000) + noise).clip(0, 255).astype(np.uint8)
  data = save(Image.fromarray(picture), 'JPEG', quality=95)
  small = decode(data, 96).astype(int)
  monkeypatch.setattr(image_files, 'GAP', 100.0)
  whole = decode(data, 96).astype(int)
  assert 0 < np.sqrt(((small - whole) ** 2).mean()) < 1.5  # of 255: and it was taken


def test_sixteen_bits_are_rounded_to_eight():
  grey = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
  pixels = decode(save(Image.fromarray(grey), 'PNG'), 1, 8)
  np.testing.assert_array_equal(pixels[0, :, 0], [0, 0, 1, 1, 128, 254, 255, 255])


def test_one_bit_is_black_and_white():
  picture = Image.fromarray(np.array([[True, False] * 4] * 8))
  assert picture.mode == '1'
  pixels = decode(save(picture, 'PNG'), 8)
  np.testing.assert_array_equal(pixels[..., 1], [[255, 0] * 4] * 8)


def test_cmyk_is_not_inverted():
  pixels = decode(save(Image.new('RGB', (16, 16), RED).convert('CMYK'), 'JPEG'), 16)
  assert abs(pixels - np.array(RED)).max() < 8


@pytest.mark.parametrize('kind', ['GIF', 'PNG', 'WEBP'])
def test_the_first_of_an_animation(kind):
  frames = [Image.new('RGB', (16, 16), colour) for colour in (RED, BLUE)]
  data = save(frames[0], kind, save_all=True, append_images=frames[1:])
  assert abs(decode(data, 16) - np.array(RED)).max() < 8


def test_a_profile_changes_nothing():
  picture = Image.fromarray(colours(16, 16))
  plain, noted = (save(picture, 'PNG', icc_profile=note) for note in (None, b'x' * 99))
  np.testing.assert_array_equal(decode(plain, 16), decode(noted, 16))


def test_random_crops_reach_every_place():
  """The largest square of a ramp, anywhere, and the same for the same generator."""
  ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[None, :, None], (40, 240, 3))
  data = image_files.encode_png(np.ascontiguousarray(ramp))
  random = config(40, 40, crop='random')
  starts = []
  for seed in range(60):
    one, two = (
      image_files.decode(data, random, np.random.default_rng(seed)) for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)
    starts.append(int(one[0, 0, 0]))
    assert abs(int(one[0, -1, 0]) - starts[-1] - 39) <= 1
  assert min(starts) < 20
  assert max(starts) > 180
  assert 80 < np.mean(starts) < 120
  assert decode(data, 40)[0, 0, 0] == 100


def test_sizes_that_are_refused():
  data = image_files.encode_png(colours(40, 60))
  assert decode(data, 8, smallest=40, most_pixels=2400).shape == (8, 8, 3)
  with pytest.raises(ValueError, match='sides of at least 41 and .* found 60 x 40'):
    decode(data, 8, smallest=41)
  with pytest.raises(ValueError, match='at most 2399 pixels, found 60 x 40; resize'):
    decode(data, 8, most_pixels=2399)


@pytest.mark.parametrize('field', ['height', 'width', 'smallest', 'most_pixels'])
def test_bad_numbers(field):
  with pytest.raises(ValueError, match=f'expected {field} of at least 1, found 0'):
    config(**{'height': 8, 'width': 8, field: 0})


def test_a_picture_for_a_prompt(tmp_path):
  path = tmp_path / 'red.jpg'
  path.write_bytes(save(Image.new('RGB', (90, 30), RED), 'JPEG'))
  pixels = image_files.read_picture(path, (16, 24))
  assert pixels.shape == (16, 24, 3)
  assert abs(pixels - np.array(RED)).max() < 8


def test_a_picture_is_opened_by_exactly_its_path(tmp_path, monkeypatch):
  """What a page or a request names: nothing is expanded, fetched or waited for."""
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  good = image_files.encode_png(np.zeros((8, 8, 3), np.uint8))
  (tmp_path / 'a.png').write_bytes(good)
  os.mkfifo(tmp_path / 'pipe.png')
  (tmp_path / 'zero.png').symlink_to('/dev/zero')
  (tmp_path / 'itself.png').symlink_to('itself.png')
  for name, message in {
    '~/a.png': 'found ~/a.png: No such file',
    'package:PIL/__init__.py': 'No such file',
    'pipe.png': 'expected a regular file, found pipe.png',
    'zero.png': 'expected a regular file',
    'itself.png': 'Too many levels',
    'a\0.png': 'no file can have',
    'https://example.org/a.png': 'the URL https://example.org/a.png; download it',
    'folder/https:/example.org/a.png': 'the URL https:/example.org/a.png; download',
    'S3://bucket/a.png': 'the URL S3://bucket/a.png',
  }.items():
    with pytest.raises(ValueError, match=message) as told:
      image_files.read_picture(name, (8, 8))
    assert '\n' not in str(told.value)
  (tmp_path / '~').mkdir()
  (tmp_path / '~' / 'a.png').write_bytes(good)
  assert image_files.read_picture('~/a.png', (8, 8)).shape == (8, 8, 3)
  monkeypatch.setattr(image_files, 'MOST_BYTES', 10)
  with pytest.raises(ValueError, match='at most 10 bytes, found a.png with more'):
    image_files.read_picture('a.png', (8, 8))


@pytest.mark.parametrize('kind', ['AVIF', 'TIFF'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_other_kinds_are_turned_too(kind, orientation):
  if kind == 'AVIF' and not features.check('avif'):
    pytest.skip('this Pillow reads no AVIF')
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = save(Image.fromarray(colours(48, 32)), kind, exif=exif)
  upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert('RGB')
  pixels = decode(data, upright.height, upright.width)
  np.testing.assert_array_equal(pixels, np.asarray(upright))


def test_heic_where_its_plug_in_is_installed():
  heif = pytest.importorskip('pillow_heif')
  heif.register_heif_opener()
  pixels = decode(save(Image.new('RGB', (64, 40), RED), 'HEIF'), 16)
  assert abs(pixels - np.array(RED)).max() < 12


def test_broken_and_missing_files(tmp_path):
  good = image_files.encode_png(np.zeros((32, 32, 3), np.uint8))
  for name, data in [('cut.png', good[: len(good) // 2]), ('text.png', b'hello')]:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(
      ValueError, match=f'{name}: expected a readable picture'
    ) as error:
      image_files.read_picture(path, (16, 16))
    assert '\n' not in str(error.value)
  with pytest.raises(ValueError, match='none.png: No such file'):
    image_files.read_picture(tmp_path / 'none.png', (16, 16))
  with pytest.raises(ValueError, match='expected a picture file'):
    image_files.read_picture(tmp_path, (16, 16))
