"""Stored scenes are those in memory, and TensorFlow is not involved."""

import dataclasses
import sys

import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.data import documents, pipeline
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.emoji import tasks as emoji_tasks

pytest.importorskip('tensorflow_datasets')

LENGTHS = {'train': 40, 'heldout': 5}


@pytest.fixture(scope='module')
def directory(mini, tmp_path_factory):
  from transfusion_jax.data.emoji import tfds_builder

  path = tmp_path_factory.mktemp('stored')
  return tfds_builder.StoredEmojiScenes.write(mini, LENGTHS, path)


@pytest.mark.parametrize('split', LENGTHS)
def test_stored_scenes_equal_those_in_memory(mini, directory, split):
  from transfusion_jax.data.emoji import tfds_builder

  stored = tfds_builder.StoredEmojiScenes(directory, split)
  drawn = emoji_scenes.EmojiScenes(mini, split)
  assert len(stored) == LENGTHS[split]
  for index in range(len(stored)):
    one, two = stored[index], drawn[index]
    for field in ('kind', 'caption_first', 'caption_dropped', 'noise_cap'):
      assert getattr(one, field) == getattr(two, field)
    for here, there in zip(one.pictures, two.pictures, strict=True):
      np.testing.assert_array_equal(here.pixels, there.pixels)
      for field in ('kind', 'objects', 'background', 'relation', 'caption'):
        assert getattr(here, field) == getattr(there, field)
  assert 'tensorflow' not in sys.modules


def test_stored_scenes_train(data, directory):
  stored = tiny.source('stored_emoji_scenes', directory)
  data = dataclasses.replace(data, sources={'stored': stored})
  source = pipeline.batches(
    data, patches=16, image_shape=(32, 32, 3), seed=0, rows=range(data.rows)
  )
  assert (next(source)['weight'] > 0).any()


@pytest.mark.parametrize('form', ['question', 'edit'])
def test_tasks_about_stored_scenes_are_those_about_drawn_ones(mini, directory, form):
  from transfusion_jax.data.emoji import tfds_builder

  stored = tfds_builder.StoredEmojiScenes(directory, 'train')
  drawn = emoji_scenes.EmojiScenes(mini, 'train')
  one, two = (emoji_tasks.make(form, mini, 'train', each) for each in (stored, drawn))
  assert len(one) == LENGTHS['train']
  for index in range(10):
    for here, there in zip(one[index].document(), two[index].document(), strict=True):
      if isinstance(here, documents.Text):
        assert here == there
      else:
        np.testing.assert_array_equal(here.pixels, there.pixels)


def test_bad_directories_and_splits(mini, directory, tmp_path):
  from transfusion_jax.data.emoji import tfds_builder

  with pytest.raises(ValueError, match="found 'test'"):
    tfds_builder.StoredEmojiScenes(directory, 'test')
  with pytest.raises(ValueError, match='expected stored emoji scenes'):
    tfds_builder.StoredEmojiScenes(str(tmp_path), 'train')
  (tmp_path / 'emoji_scenes').mkdir()
  with pytest.raises(ValueError, match='expected no scenes'):
    tfds_builder.StoredEmojiScenes.write(mini, LENGTHS, tmp_path)
