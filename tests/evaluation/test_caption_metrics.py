"""CIDEr, BLEU and ROUGE of captions, where pycocoevalcap is installed."""

import importlib.util
import math
import shutil

import numpy as np
import pytest

from tests.support import captions_of_images, tiny
from transfusion_jax.evaluation import caption_metrics, extras, report

SAID = ('a dog runs on the grass', 'two red cars', 'the cat sleeps')
REFERENCES = (
  ('A dog runs on the grass.', 'the dog is running'),
  ('Two red cars, parked', 'two cars are parked there'),
  ("The cat's asleep", 'a cat sleeps on a bed'),
)
MEASURES = {'cider', 'rouge_l', 'bleu_1', 'bleu_2', 'bleu_3', 'bleu_4'}


@pytest.fixture(params=['java', 'plain'])
def words(request, monkeypatch):
  """What is behind the names of scores, with Java and without."""
  pytest.importorskip('pycocoevalcap')
  if request.param == 'plain':
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    return '_plain'
  if not shutil.which('java'):
    pytest.skip('there is no Java')
  return ''


def test_scores_bear_the_name_of_their_words(words):
  found = caption_metrics.scores(SAID, REFERENCES)
  assert set(found) == {f'{name}{words}' for name in MEASURES}


def test_bleu_and_rouge_by_hand(words):
  """All 12 words are in a caption of their picture, but the captions are longer."""
  found = caption_metrics.scores(SAID, REFERENCES)
  # The references nearest in length have 6, 4, and 4 (or plainly 3) words.
  brevity = math.exp(1 - (13 if words else 14) / 12)
  np.testing.assert_allclose(found[f'bleu_1{words}'], brevity, rtol=1e-6)
  precision = np.array([1, 1, 2 / 3])
  recall = np.array([1, 3 / 4, 1 / 3 if words else 2 / 4])
  wanted = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
  np.testing.assert_allclose(found[f'rouge_l{words}'], wanted.mean(), rtol=1e-6)


def test_the_right_captions_are_the_best_and_empty_ones_the_worst(words):
  right = caption_metrics.scores([each[0] for each in REFERENCES], REFERENCES)
  some = caption_metrics.scores(SAID, REFERENCES)
  none = caption_metrics.scores(['', '', ''], REFERENCES)
  for name in right:
    assert right[name] > some[name] > none[name], name
  np.testing.assert_allclose(none[f'cider{words}'], 0)
  np.testing.assert_allclose(right[f'bleu_4{words}'], 1, rtol=1e-6)


def test_odd_white_space_does_not_shift_lines(words):
  """A line of Java's input is a text."""
  odd = ['a dog\r\nruns on\u2028the\vgrass', 'two\x85red cars', 'the cat\tsleeps']
  assert caption_metrics.scores(odd, REFERENCES) == caption_metrics.scores(
    SAID, REFERENCES
  )


def made(folder, **changes):
  config = dict(pictures=0, limit=9, shown=2, seed=0) | changes
  return caption_metrics.Captions(
    caption_metrics.CaptionsConfig(
      kind='captions',
      source=tiny.source('json_lines', captions_of_images.write(folder, 20)),
      **config,
    ),
    scenes=captions_of_images.SCENES,
    pictures=captions_of_images.SIZE,
    rows=8,
  )


def test_a_model_that_knows_the_captions(tmp_path, words):
  del words
  found = dict(made(tmp_path)(captions_of_images.parrot()))
  gallery = found.pop('captions')
  assert isinstance(gallery, report.Gallery)
  assert [tile.good for tile in gallery.tiles] == [True, True]
  assert found['pictures'] == 20
  assert max(v for k, v in found.items() if k.startswith('bleu_2')) > 0.99
  assert set(made(tmp_path, pictures=5)._chosen) < set(range(20))


def test_what_is_missing_is_said_at_once(tmp_path, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match='package pycocoevalcap for CIDEr, BLEU and RO'):
    made(tmp_path)
  monkeypatch.setattr(extras, 'need', lambda package, purpose: None)
  with pytest.raises(ValueError, match='at least 21 pictures in .*, found 20'):
    made(tmp_path, pictures=21)
  with pytest.raises(ValueError, match='at least 2 pictures .or 0 for all'):
    made(tmp_path, pictures=1)


def test_plain_words():
  found = caption_metrics.plain({3: ["The cat's _red_ hat -- 2 café's!", '...']})
  assert found == {3: ["the cat's red hat 2 café's", '']}
