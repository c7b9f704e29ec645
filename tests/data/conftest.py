"""Configs for the tests of data."""

import dataclasses

import pytest

from tests import tiny
from transfusion_jax.data import emoji_scenes, images, pipeline, tokenizer_config


@pytest.fixture(scope='session')
def mini() -> emoji_scenes.EmojiScenesConfig:
  """The minutes-set, every kind equally often."""
  return emoji_scenes.EmojiScenesConfig(
    glyphs=16,
    colors=6,
    size=32,
    sprites=(16,),
    placement='grid',
    single=1.0,
    count=1.0,
    pair=1.0,
    binding=1.0,
    story=1.0,
    frames=4,
    heldout=0.1,
    caption_first=0.8,
    caption_drop=0.1,
    image_first_noise_cap=0.5,
    seed=0,
  )


@pytest.fixture(scope='session')
def free(mini) -> emoji_scenes.EmojiScenesConfig:
  return dataclasses.replace(mini, size=64, sprites=(20, 24, 32), placement='free')


@pytest.fixture(scope='session')
def everything(mini) -> emoji_scenes.EmojiScenesConfig:
  """All glyphs, all colours, 256 pixels."""
  return dataclasses.replace(
    mini, glyphs=0, colors=10, size=256, sprites=(48, 64, 96), placement='free'
  )


@pytest.fixture(scope='session')
def data(mini) -> pipeline.DataConfig:
  return pipeline.DataConfig(
    sources={'scenes': tiny.source('emoji_scenes')},
    scenes=mini,
    tokenizer=tokenizer_config.TokenizerConfig('words', '', reserved=0, multiple=8),
    images=images.ImagesConfig(32, 32, 'center', smallest=1, most_pixels=10**8),
    moments=False,
    rows=4,
    row_length=256,
    image_slots=10,
    long_texts='split',
    long_pictures='refuse',
    broken=0.0,
    shards=1,
    window=32,
    threads=0,
    prefetch=0,
  )
