"""From a data section of a config to an iterator of batches that resumes exactly.

The chain: source (random access) -> shuffled by the run's seed, repeated -> laid out ->
packed -> prefetched in a thread. The state of the iterator is that of the last batch
handed out, whatever was prefetched.
"""

import dataclasses
from typing import Any, Literal

import grain
import numpy as np
from jaxtyping import UInt8

from transfusion_jax.data import (
  documents,
  emoji_scenes,
  layout,
  packing,
  tokenizers,
)


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The data of a run.

  Attributes:
    kind: 'emoji_scenes' draws them as they are needed; 'stored_emoji_scenes' reads them
      from disk, where `tfds_emoji_scenes` has written them.
    directory: of stored scenes; empty where they are drawn.
    scenes: which scenes; for stored ones, those that were written.
    tokenizer: 'words' of the captions, or 'bytes'.
    vocabulary_multiple: the token table is padded to a multiple of this.
    rows: of a batch, on this host.
    row_length: positions of a row.
    image_slots: pictures that a row can hold; 0: text alone.
    window: documents that wait for a row; more fill the rows better and cost time.
    prefetch: batches made ahead, in a thread; 0: none.
  """

  kind: Literal['emoji_scenes', 'stored_emoji_scenes']
  directory: str
  scenes: emoji_scenes.EmojiScenesConfig
  tokenizer: Literal['words', 'bytes']
  vocabulary_multiple: int
  rows: int
  row_length: int
  image_slots: int
  window: int
  prefetch: int

  def __post_init__(self):
    for name in ('vocabulary_multiple', 'rows', 'row_length', 'window'):
      if getattr(self, name) < 1:
        found = getattr(self, name)
        raise ValueError(f'expected {name} of at least 1, found {found}; raise it')
    for name in ('image_slots', 'prefetch'):
      if getattr(self, name) < 0:
        found = getattr(self, name)
        raise ValueError(f'expected {name} >= 0, found {found}; use 0 for none')
    if (self.kind == 'stored_emoji_scenes') != bool(self.directory):
      raise ValueError(
        'expected a directory with stored scenes and none with drawn ones, found kind='
        f'{self.kind!r} and directory={self.directory!r}; set or empty the directory'
      )


def scenes(config: DataConfig, split: str) -> emoji_scenes.Source:
  """The scenes of a split, by index, in their own order."""
  if config.kind == 'stored_emoji_scenes':
    # Here, because TFDS takes a second to import and is an extra.
    from transfusion_jax.data import tfds_emoji_scenes

    return tfds_emoji_scenes.StoredEmojiScenes(config.directory, split)
  return emoji_scenes.EmojiScenes(config.scenes, split)


def tokenizer(config: DataConfig) -> tokenizers.Words | tokenizers.Bytes:
  """The tokenizer of the run."""
  if config.tokenizer == 'bytes':
    return tokenizers.Bytes(multiple=config.vocabulary_multiple)
  words = emoji_scenes.vocabulary(config.scenes)
  return tokenizers.Words(words, multiple=config.vocabulary_multiple)


def image_size(config: DataConfig) -> int:
  """Height and width of every picture in pixels."""
  return config.scenes.size


def batches(
  config: DataConfig, *, patches: int, seed: int
) -> grain.DatasetIterator[packing.Batch]:
  """Packed batches of the train split without end; see `packing.stack` for the keys."""
  plan = layout.Layout(tokenizer(config), patches=patches)
  source = _shuffled(config, seed).map(lambda scene: plan.document(scene.document()))
  rows = _rows(config, plan.tokenizer)
  return _prefetched(PackedDataset(source, rows, config.window), config)


def pictures(
  config: DataConfig, *, seed: int
) -> grain.DatasetIterator[dict[str, UInt8[np.ndarray, 'b h w 3']]]:
  """Batches `{'images': [rows, h, w, 3]}` of the train split's pictures without end."""
  source = _shuffled(config, seed).map_with_index(_one_picture).batch(config.rows)
  dataset = source.to_iter_dataset(
    grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  )
  return _prefetched(dataset, config)


def check(config: DataConfig, patches: int) -> None:
  """Finds rows that are too short before anything is drawn.

  Raises:
    ValueError: the longest document does not fit into a row.
  """
  plan = layout.Layout(tokenizer(config), patches=patches)
  measure = lambda text: len(plan.tokenizer.encode(text))  # noqa: E731
  longest = emoji_scenes.longest_documents(config.scenes, measure)
  length = max(plan.length(words, images) for images, words in longest)
  images = max(images for images, _ in longest)
  if length > config.row_length or images > config.image_slots:
    raise ValueError(
      f'expected rows for the longest document, {length} positions and {images} '
      f'images, found row_length={config.row_length} and image_slots='
      f'{config.image_slots}; raise them, or shorten stories with scenes.frames'
    )


class PackedDataset(grain.IterDataset[packing.Batch]):
  """Packs sequences of a random-access dataset; the state is the packer's."""

  def __init__(self, parent: grain.MapDataset, rows: packing.Rows, window: int):
    super().__init__(parent)
    self._rows, self._window = rows, window

  def __iter__(self) -> 'PackedIterator':
    return PackedIterator(self._parent, self._rows, self._window)


class PackedIterator(grain.DatasetIterator[packing.Batch]):
  """Grain's view of a `packing.Packer`."""

  def __init__(self, parent: grain.MapDataset, rows: packing.Rows, window: int):
    super().__init__()
    self._packer = packing.Packer(parent.__getitem__, rows, window=window)

  def __next__(self) -> packing.Batch:
    return next(self._packer)

  def get_state(self) -> dict[str, Any]:
    return self._packer.get_state()

  def set_state(self, state: dict[str, Any]) -> None:
    self._packer.set_state(state)


def _shuffled(config: DataConfig, seed: int) -> grain.MapDataset[emoji_scenes.Scene]:
  """The train split without end, reshuffled every time it is through."""
  source = grain.MapDataset.source(scenes(config, 'train'))
  return source.shuffle(seed=seed % 2**32).repeat()


def _prefetched(
  dataset: grain.IterDataset, config: DataConfig
) -> grain.DatasetIterator:
  return iter(
    grain.experimental.ThreadPrefetchIterDataset(
      dataset, prefetch_buffer_size=config.prefetch
    )
  )


def _one_picture(index: int, scene: emoji_scenes.Scene) -> packing.Batch:
  """One picture of every document, so that stories do not count more."""
  images = [
    segment.pixels
    for segment in scene.document()
    if isinstance(segment, documents.Image)
  ]
  return {'images': images[index % len(images)]}


def _rows(config: DataConfig, words: tokenizers.Tokenizer) -> packing.Rows:
  return packing.Rows(
    count=config.rows,
    length=config.row_length,
    image_slots=config.image_slots,
    image_size=image_size(config),
    pad=words.special.pad,
  )
