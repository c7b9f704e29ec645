"""GenEval's folders: what its own scorer finds there, and what a second call draws."""

import dataclasses
import json
import os
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from tests.support import captions_of_images, tiny
from transfusion_jax.evaluation import geneval

PROMPTS = [
  {'tag': 'single_object', 'include': [{'class': 'a', 'count': 1}], 'prompt': 'a b'},
  {
    'tag': 'counting',
    'include': [{'class': 'c', 'count': 3}],
    'exclude': [{'class': 'c', 'count': 4}],
    'prompt': 'c d',
  },
  {
    'tag': 'position',
    'include': [
      {'class': 'e', 'count': 1},
      {'class': 'f', 'count': 1, 'position': ['left of', 0]},
    ],
    'prompt': 'e f',
  },
]


@pytest.fixture
def prompts(tmp_path) -> pathlib.Path:
  path = tmp_path / 'evaluation_metadata.jsonl'
  path.write_text('\n'.join(map(json.dumps, PROMPTS)) + '\n')
  return path


def made(prompts, rows=4, **changes) -> geneval.Geneval:
  config = geneval.GenevalConfig(
    kind='geneval',
    prompts=str(prompts),
    directory=str(prompts.parent / 'pictures'),
    images=2,
    shown=1,
    seed=0,
  )
  config = dataclasses.replace(config, **changes)
  return geneval.Geneval(config, sampling=captions_of_images.SAMPLING, rows=rows)


def folder_of(prompts) -> pathlib.Path:
  (folder,) = (prompts.parent / 'pictures').iterdir()
  return folder


def as_the_scorer_reads(folder) -> list[tuple[dict, list[str]]]:
  """The walk of GenEval's evaluate_images: metadata and pictures of every prompt."""
  found = []
  for name in sorted(os.listdir(folder)):
    if not (folder / name).is_dir() or not name.isdigit():
      continue
    metadata = json.loads((folder / name / 'metadata.jsonl').read_text())
    files = sorted(os.listdir(folder / name / 'samples'))
    found.append((metadata, [file for file in files if re.match(r'\d+\.png', file)]))
  return found


def test_folders_are_those_that_the_scorer_reads(prompts):
  found = dict(made(prompts)(captions_of_images.parrot()))
  assert (found['pictures'], found['drawn']) == (6, 6)
  folder = folder_of(prompts)
  assert as_the_scorer_reads(folder) == [
    (prompt, ['0000.png', '0001.png']) for prompt in PROMPTS
  ]
  line = (folder / '00001' / 'metadata.jsonl').read_text()
  assert line == prompts.read_text().splitlines()[1] + '\n'
  shown = np.asarray(Image.open(folder / '00001' / 'samples' / '0001.png'))
  np.testing.assert_array_equal(shown, tiny.picture(16 * 2 + 3))  # of 'c d'
  (tile,) = found['drawings'].tiles
  assert tile.text == 'a b'
  np.testing.assert_array_equal(tile.picture, tiny.picture(1))


def test_a_grid_holds_all_pictures():
  pictures = np.stack([tiny.picture(number) for number in range(3)])
  found = geneval.grid(pictures)
  assert found.shape == (4 + 4, 3 * 6 + 2, 3)
  for number, picture in enumerate(pictures):
    left = 2 + 6 * number
    np.testing.assert_array_equal(found[2:6, left : left + 4], picture)
  assert found.sum() == pictures.sum()


def test_what_is_finished_is_kept(prompts):
  writer = captions_of_images.parrot()
  evaluate = made(prompts)
  dict(evaluate(writer))
  folder = folder_of(prompts)
  kept = folder / '00000' / 'samples' / '0000.png'
  kept.write_bytes((folder / '00002' / 'samples' / '0000.png').read_bytes())
  shutil.rmtree(folder / '00001')
  (folder / 'unfinished_00001' / 'samples').mkdir(parents=True)  # cut off in the middle
  writer.asked.clear()
  assert dict(evaluate(writer))['drawn'] == 2
  assert writer.asked == ['c d', 'c d']
  assert np.array_equal(np.asarray(Image.open(kept)), tiny.picture(16 * 4 + 5))
  assert sorted(os.listdir(folder)) == ['00000', '00001', '00002']
  assert as_the_scorer_reads(folder)[1] == (PROMPTS[1], ['0000.png', '0001.png'])


def test_another_model_or_seed_has_a_folder_of_its_own(prompts):
  writer = captions_of_images.parrot()
  other = dataclasses.replace(writer, model=tiny.model(qk_norm=False))
  for model, seed in ((writer, 0), (writer, 1), (other, 0), (writer, 0)):
    dict(made(prompts, seed=seed)(model))
  assert len(list((prompts.parent / 'pictures').iterdir())) == 3


def test_pictures_do_not_depend_on_which_are_drawn_together(prompts):
  keys = made(prompts)._keys([0, 1, 2])
  assert len({key.tobytes() for key in _data(keys)}) == 6
  np.testing.assert_array_equal(_data(made(prompts)._keys([2])), _data(keys[4:]))
  writer = captions_of_images.parrot()
  dict(made(prompts, rows=1)(writer))
  assert writer.asked == ['a b', 'a b', 'c d', 'c d', 'e f', 'e f']


def _data(keys) -> np.ndarray:
  return np.asarray(jax.random.key_data(keys))


@pytest.mark.parametrize(
  ('line', 'found'),
  [
    ('{"tag": "a"', 'no JSON'),
    ('5', 'int'),
    (
      '{"tag": "a", "prompt": "b", "include": [{"class": "b", "count": 1}], '
      '"exclude": 5}',
      'exclude=5',
    ),
    ('["tag"]', 'list'),
    ('{"tag": "a", "include": [{"class": "b", "count": 1}]}', 'prompt=None'),
    ('{"tag": "a", "prompt": "b", "include": []}', r'include=\[\]'),
    ('{"tag": 1, "prompt": "b", "include": []}', 'tag=1'),
    ('{"tag": "a", "prompt": "b", "include": [{"class": "b"}]}', 'the object'),
    (
      '{"tag": "a", "prompt": "b", "include": [{"class": "b", "count": 1}], '
      '"exclude": ["c"]}',
      "the object 'c'",
    ),
  ],
)
def test_a_malformed_line_is_named(prompts, line, found):
  lines = prompts.read_text().splitlines()
  prompts.write_text('\n'.join([lines[0], line, lines[1]]) + '\n')
  with pytest.raises(ValueError, match=rf'evaluation_metadata.jsonl:2: .*{found}'):
    made(prompts)


def test_no_prompts(prompts):
  with pytest.raises(ValueError, match="GenEval's prompt file, found no file '.*none"):
    made(prompts.parent / 'none.jsonl')
  with pytest.raises(ValueError, match='a directory and at least 1 image'):
    made(prompts, directory='')
