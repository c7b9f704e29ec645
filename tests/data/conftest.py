"""Configs for the tests of data."""

import dataclasses

import pytest

from tests.support import tiny
from transfusion_jax.data import mixture, pipeline
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.images import image_files
from transfusion_jax.data.text import tokenizer_config


@pytest.fixture(autouse=True)
def nothing_said():
  """What the log says once in a process, it says once in a test."""
  mixture.said.clear()


@pytest.fixture(scope='session')
def mini() -> emoji_scenes.EmojiScenesConfig:
  """The minutes-set, every kind equally often."""
  return tiny.scenes(frames=4)


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
    images=image_files.ImagesConfig(32, 32, 'center', smallest=1, most_pixels=10**8),
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
