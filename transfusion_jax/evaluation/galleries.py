"""Galleries on disk: pictures as PNG files, and in `gallery.json` what they show.

The list is sealed, and holds a digest of every picture: what was changed since, or has
gone, is found before anything is decoded.
"""

import hashlib
import io
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from transfusion_jax.core import sealed_json
from transfusion_jax.evaluation import report

_LIST = 'gallery.json'


def save(folder: pathlib.Path, galleries: Mapping[str, report.Gallery]) -> None:
  """Writes galleries in place of those that the folder held."""
  if folder.exists():
    shutil.rmtree(folder)
  folder.mkdir(parents=True)
  listed = {}
  for name, gallery in galleries.items():
    tiles = []
    for number, tile in enumerate(gallery.tiles):
      file = f'{name}_{number:03}.png'
      data = report.png(tile.picture)
      (folder / file).write_bytes(data)
      about = {'text': tile.text, 'good': tile.good, 'truth': tile.truth}
      tiles.append({'file': file, 'digest': _digest(data), **about})
    listed[name] = {'title': gallery.title, 'note': gallery.note, 'tiles': tiles}
  sealed_json.write(folder / _LIST, {'galleries': listed})


def load(folder: pathlib.Path) -> dict[str, report.Gallery]:
  """The galleries that were saved in a folder; none if there is no such folder.

  Raises:
    sealed_json.Damaged: a file has gone, or was changed since; the message names it.
  """
  path = folder / _LIST
  if not path.exists():
    return {}
  return {
    name: report.Gallery(
      gallery['title'],
      gallery['note'],
      tuple(_tile(folder, tile) for tile in gallery['tiles']),
    )
    for name, gallery in sealed_json.read(path)['galleries'].items()
  }


def _tile(folder: pathlib.Path, tile: Mapping[str, Any]) -> report.Tile:
  path = folder / tile['file']
  try:
    data = path.read_bytes()
  except OSError as error:
    raise sealed_json.Damaged(
      f'expected {path} to be readable, found {error.strerror}; evaluate again'
    ) from error
  if _digest(data) != tile['digest']:
    raise sealed_json.Damaged(
      f'expected {path} as it was written, found it changed since; evaluate again'
    )
  with Image.open(io.BytesIO(data)) as picture:
    pixels = np.asarray(picture.convert('RGB'))
  return report.Tile(pixels, tile['text'], tile['good'], tile['truth'])


def _digest(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()
