"""Emoji scenes as a TFDS data set: written to disk once, read back at random.

TensorFlow is needed for neither: records are ArrayRecord files and pictures are PNG.

  StoredEmojiScenes.write(config, {'train': 100_000, 'test': 1_000}, directory)
  StoredEmojiScenes(directory, 'train')[0].caption
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from transfusion_jax.data.emoji import rendering as emoji_rendering
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.images import image_files
from transfusion_jax.data.sources import tfds as tfds_source


class EmojiScenesBuilder(tfds.core.GeneratorBasedBuilder):
  """Writes the first scenes of each split."""

  name = 'emoji_scenes'
  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First version.'}

  def __init__(
    self,
    *,
    scenes: emoji_scenes.EmojiScenesConfig,
    lengths: Mapping[str, int],
    data_dir: str,
  ):
    self._scenes, self._lengths = scenes, dict(lengths)
    super().__init__(data_dir=data_dir, file_format='array_record')

  def _info(self) -> tfds.core.DatasetInfo:
    side = self._scenes.size
    return tfds.core.DatasetInfo(
      builder=self,
      disable_shuffling=True,  # scene k is record k
      description='OpenMoji glyphs (CC BY-SA 4.0, openmoji.org) with English captions.',
      features=tfds.features.FeaturesDict(
        {
          # Given as PNG bytes: to encode arrays it would want TensorFlow.
          'images': tfds.features.Sequence(
            tfds.features.Image(shape=(side, side, 3), encoding_format='png')
          ),
          'captions': tfds.features.Sequence(tfds.features.Text()),
          'meaning': tfds.features.Text(),  # all the rest, as JSON
        }
      ),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # nothing to download
    return {split: self._generate_examples(split) for split in self._lengths}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    scenes = emoji_scenes.EmojiScenes(self._scenes, split)
    for index in range(self._lengths[split]):
      yield index, to_example(scenes[index])


class StoredEmojiScenes:
  """Random access to written scenes, in the order of their indices."""

  @staticmethod
  def write(
    scenes: emoji_scenes.EmojiScenesConfig,
    lengths: Mapping[str, int],
    directory: str | os.PathLike,
  ) -> str:
    """Writes that many scenes of each split; returns the directory to read from.

    Raises:
      ValueError: scenes are there already.
    """
    target = pathlib.Path(directory) / EmojiScenesBuilder.name
    if target.exists():
      raise ValueError(
        f'expected no scenes in {directory}, found {target}; use another directory'
      )
    builder = EmojiScenesBuilder(
      scenes=scenes, lengths=lengths, data_dir=str(directory)
    )
    builder.download_and_prepare()
    return str(builder.data_path)

  def __init__(self, directory: str, split: str):
    """Opens one split.

    Raises:
      ValueError: no such data set, or no such split in it.
    """
    try:
      builder = tfds_source.opened('', directory)
    except ValueError as error:
      raise ValueError(
        f'expected stored emoji scenes in {directory}, found none; write them with '
        'StoredEmojiScenes.write and give the directory that it returns'
      ) from error
    self._source = tfds_source.data_source(builder, split)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> emoji_scenes.Scene:
    return from_example(self._source[index])


def to_example(scene: emoji_scenes.Scene) -> dict[str, Any]:
  """A scene as TFDS stores it."""
  meaning = {
    'kind': scene.kind,
    'caption_first': scene.caption_first,
    'caption_dropped': scene.caption_dropped,
    'noise_cap': scene.noise_cap,
    'pictures': [
      {
        'kind': picture.kind,
        'objects': [dataclasses.asdict(thing) for thing in picture.objects],
        'background': picture.background,
        'relation': picture.relation,
      }
      for picture in scene.pictures
    ],
  }
  return {
    'images': [image_files.encode_png(picture.pixels) for picture in scene.pictures],
    'captions': [picture.caption for picture in scene.pictures],
    'meaning': json.dumps(meaning),
  }


def from_example(example: Mapping[str, Any]) -> emoji_scenes.Scene:
  """The inverse of `to_example`."""
  meaning = json.loads(_text(example['meaning']))
  pictures = tuple(
    emoji_rendering.Picture(
      said['kind'],
      tuple(emoji_rendering.Object(**thing) for thing in said['objects']),
      said['background'],
      said['relation'],
      _text(caption),
      np.asarray(pixels),
    )
    for said, caption, pixels in zip(
      meaning['pictures'], example['captions'], example['images'], strict=True
    )
  )
  return emoji_scenes.Scene(
    meaning['kind'],
    pictures,
    meaning['caption_first'],
    meaning['caption_dropped'],
    meaning['noise_cap'],
  )


def _text(value: str | bytes) -> str:
  return value.decode('utf-8') if isinstance(value, bytes) else value
