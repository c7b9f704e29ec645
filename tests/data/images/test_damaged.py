"""Damaged and odd pictures: each is decoded or refused in one line, and no more.

No other exception, no warning (they are errors here), no memory beyond a bound: run as
a program, this file goes through the table with little memory to be had.
"""

import itertools
import os
import pathlib
import resource
import subprocess
import sys

import numpy as np
import pytest

from tests.support import odd_images
from transfusion_jax.data.images import decoders, headers, image_files

ROOT = pathlib.Path(__file__).parents[3]
CONFIG = image_files.ImagesConfig(24, 24, crop='center', smallest=1, most_pixels=10**6)
HEADROOM = 64 * 2**20  # bytes; a picture of 10**6 pixels takes 4 MB, some kinds thrice

ROWS = {name: (data, True) for name, data in odd_images.DECODES.items()}
ROWS |= {name: (data, False) for name, data in odd_images.REFUSED.items()}


def refusal(data: bytes) -> str | None:
  """Why a picture is refused; None for one that comes out well."""
  try:
    pixels = image_files.decode(data, CONFIG, None)
  except ValueError as error:
    return str(error)
  assert (pixels.shape, pixels.dtype) == ((24, 24, 3), np.uint8)
  return None


@pytest.mark.parametrize('name', ROWS)
def test_decodes_or_is_refused(name):
  data, decodes = ROWS[name]
  found = refusal(data)
  assert (found is None) == decodes, found
  if found:
    assert found.startswith('expected a ')
    assert '\n' not in found


def test_scans_are_counted_to_the_end_and_not_decoded():
  assert '109 scans' in refusal(odd_images.REFUSED['many scans without end'])


@pytest.mark.parametrize('kind', odd_images.KINDS)
def test_flipped_and_cut(kind):
  """Any byte may be wrong: a picture comes out, or a refusal in one line."""
  data, draw = odd_images.KINDS[kind], np.random.default_rng(0)
  for turn in range(60):
    damaged = bytearray(data[: draw.integers(len(data))] if turn % 3 == 0 else data)
    for place in draw.integers(min(len(damaged), 600) or 1, size=1 + turn % 4):
      damaged[place : place + 1] = bytes([draw.integers(256)])
    assert '\n' not in (refusal(bytes(damaged)) or '')


def test_a_row_too_long_is_refused_before_the_decoder():
  """100,000,000 x 1 is within most_pixels; a decoder asks for all memory."""
  row = odd_images.png(odd_images.ihdr(10**8, 1), odd_images.PIXELS)
  config = image_files.ImagesConfig(8, 8, crop='center', smallest=1, most_pixels=10**8)
  with pytest.raises(ValueError, match='sides of at most 65,535 .*100000000 x 1'):
    image_files.decode(row, config, None)


def test_no_memory_is_a_refusal(monkeypatch):
  def exhausted(*_):
    raise MemoryError

  monkeypatch.setattr(image_files, '_fit', exhausted)
  assert 'MemoryError' in refusal(odd_images.PNG)


def test_a_missing_decoder_says_what_to_install(monkeypatch):
  heic = b'\0\0\0\x18ftypheic\0\0\0\0mif1heic'
  for kind, told in (('HEIC', 'pip install pillow-heif'), ('AVIF', "'pillow>=11.3'")):
    file = headers.PictureFile(kind, 8, 8, 1, heic)
    monkeypatch.setattr(headers, 'parse', lambda _, file=file: file)
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    monkeypatch.setattr(decoders.features, 'check', lambda _: False)
    decoders.find.cache_clear()
    assert told in refusal(heic)
  decoders.find.cache_clear()


def test_there_are_many_and_all_differ():
  assert len(odd_images.DECODES) + len(odd_images.REFUSED) == len(ROWS) > 150
  pairs = itertools.combinations(ROWS, 2)
  assert not [pair for pair in pairs if ROWS[pair[0]][0] == ROWS[pair[1]][0]]


def test_memory_is_bounded():
  program = [sys.executable, '-W', 'error', '-m', 'tests.data.images.test_damaged']
  subprocess.run(program, cwd=ROOT, check=True, timeout=60)


if __name__ == '__main__':
  refusal(odd_images.JPEG)  # whatever is made once
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
  limit = pages * os.sysconf('SC_PAGE_SIZE') + HEADROOM
  resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
  for name, (data, decodes) in ROWS.items():
    told = refusal(data)
    assert (told is None) == decodes, name
    assert 'MemoryError' not in (told or ''), name
