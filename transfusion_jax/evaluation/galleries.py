"""Galleries on disk: pictures as PNG files, and in `gallery.json` what they show."""

import json
import pathlib
import shutil
from collections.abc import Mapping

import numpy as np
from PIL import Image

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
      Image.fromarray(tile.picture).save(folder / file, optimize=True)
      tiles.append({'file': file, 'text': tile.text, 'good': tile.good})
    listed[name] = {'title': gallery.title, 'note': gallery.note, 'tiles': tiles}
  (folder / _LIST).write_text(json.dumps(listed, indent=2) + '\n', encoding='utf-8')


def load(folder: pathlib.Path) -> dict[str, report.Gallery]:
  """The galleries that were saved in a folder; none if there is no such folder."""
  path = folder / _LIST
  if not path.exists():
    return {}
  return {
    name: report.Gallery(
      gallery['title'],
      gallery['note'],
      tuple(_tile(folder, tile) for tile in gallery['tiles']),
    )
    for name, gallery in json.loads(path.read_text(encoding='utf-8')).items()
  }


def _tile(folder: pathlib.Path, tile: dict) -> report.Tile:
  with Image.open(folder / tile['file']) as picture:
    return report.Tile(np.asarray(picture.convert('RGB')), tile['text'], tile['good'])
