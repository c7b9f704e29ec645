"""Pictures of users: orientation, transparency, shape, and broken files."""

import io

import numpy as np
import pytest
from PIL import Image

from transfusion_jax.data import images


def save(picture: Image.Image, kind: str, **options) -> bytes:
  buffer = io.BytesIO()
  picture.save(buffer, kind, **options)
  return buffer.getvalue()


def config(height: int, width: int, **options) -> images.ImagesConfig:
  options = {'crop': 'center', 'smallest': 1, 'most_pixels': 10**6, **options}
  return images.ImagesConfig(height, width, **options)


def decode(data: bytes, height: int, width: int | None = None, **options) -> np.ndarray:
  return images.decode(data, config(height, width or height, **options), None)


def test_png_round_trip():
  pixels = np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)
  np.testing.assert_array_equal(decode(images.encode_png(pixels), 16), pixels)


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'L', 'LA', 'P', '1', 'CMYK', 'I;16'])
def test_every_mode_becomes_a_square(mode):
  kind = 'JPEG' if mode == 'CMYK' else 'PNG'
  pixels = decode(save(Image.new(mode, (50, 20)), kind), 24)
  assert pixels.shape == (24, 24, 3)
  assert pixels.dtype == np.uint8


def test_transparency_is_white():
  clear = Image.new('RGBA', (8, 8), (255, 0, 0, 0))
  assert (decode(save(clear, 'PNG'), 8) == 255).all()


def test_the_middle_is_kept():
  picture = np.zeros((20, 60, 3), np.uint8)
  picture[:, 20:40] = 255
  assert (decode(images.encode_png(picture), 20) == 255).all()


def test_exif_orientation_turns_the_picture():
  picture = np.zeros((16, 16, 3), np.uint8)
  picture[:8] = 255  # upper half white
  exif = Image.Exif()
  exif[0x0112] = 3  # upside down
  data = save(Image.fromarray(picture), 'PNG', exif=exif)
  turned = decode(data, 16)
  assert turned[12].mean() > 250
  assert turned[3].mean() < 5


def test_reducing_is_antialiased():
  checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
  pixels = decode(images.encode_png(np.stack([checks] * 3, -1)), 8)
  assert abs(pixels.astype(int) - 127).max() < 10


def test_broken_and_missing_files(tmp_path):
  good = images.encode_png(np.zeros((32, 32, 3), np.uint8))
  for name, data in [('cut.png', good[: len(good) // 2]), ('text.png', b'hello')]:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(
      ValueError, match=f'{name}: expected a readable picture'
    ) as error:
      images.read_picture(path, (16, 16))
    assert '\n' not in str(error.value)
  with pytest.raises(ValueError, match='none.png: No such file'):
    images.read_picture(tmp_path / 'none.png', (16, 16))
  with pytest.raises(ValueError, match='expected a picture file'):
    images.read_picture(tmp_path, (16, 16))
