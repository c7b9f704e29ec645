"""The data pipeline: sources in, packed batches out, exactly resumable.

sources -> shuffled anew every epoch -> laid out, cut to rows -> mixed by weight ->
packed in shards -> prefetched in a thread. The state of the iterator is that of the
last batch handed out, whatever was prefetched. A process asks for some rows of every
batch; what is in them does not depend on who asks.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any, Literal

import grain
import numpy as np

from transfusion_jax.data import corpus, documents, epochs, mixture
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.emoji import tasks as emoji_tasks
from transfusion_jax.data.images import image_files
from transfusion_jax.data.rows import iterators, layout, packing, shards
from transfusion_jax.data.text import tokenizer_config, tokenizers

AHEAD = 4
"""Documents of a source that a shard has made ahead where there are threads."""


RANGES = {
  'rows': (1, 2**20),
  'row_length': (1, 2**24),
  'shards': (1, 2**20),
  'window': (1, 2**16),
  'image_slots': (0, 2**16),
  'threads': (0, 1024),
  'prefetch': (0, 1024),
}
"""Ranges of numbers in a config; beyond the highest, memory or threads run out."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The data of a run.

  Attributes:
    sources: what is mixed, by name.
    scenes: which emoji scenes, for sources of emoji scenes; for stored ones, those that
      were written.
    tokenizer: from text to ids.
    images: size of pictures, and how they are brought to it.
    moments: whether all sources hold moments of latents, which `encode_images` has
      stored, in place of pictures.
    rows: of a batch, on all hosts.
    row_length: positions of a row.
    image_slots: pictures that a row can hold; 0: text alone.
    long_texts: what becomes of a document without pictures that is longer than a row:
      'split' into rows, 'truncate' to one, 'refuse' as if it were broken.
    long_pictures: the same of a document with pictures. No picture is ever parted.
    broken: share of a source's documents that may be broken or refused; they are left
      out and named in the log, and beyond this share (and 20 in a shard and a pass
      through the source) the run ends. What is not for a stage is not broken: images
      alone train the autoencoder, and text alone a model without image slots.
    shards: of the documents, each packed into its own rows of a batch. They are part of
      the order of the data, like the seed. A host packs the shards in which its rows
      lie: one shard makes every host pack all rows, one a row none that it lacks.
    window: sequences that wait in every shard; more fill the rows better and cost time.
    threads: that read and decode documents ahead; 0: none but the one that packs.
    prefetch: batches made ahead, in a thread; 0: none. The loop runs ahead of the
      devices by up to train.log_every steps, and waits where there are fewer.
  """

  sources: dict[str, corpus.SourceConfig]
  scenes: emoji_scenes.EmojiScenesConfig
  tokenizer: tokenizer_config.TokenizerConfig
  images: image_files.ImagesConfig
  moments: bool
  rows: int
  row_length: int
  image_slots: int
  long_texts: Literal['split', 'truncate', 'refuse']
  long_pictures: Literal['split', 'truncate', 'refuse']
  broken: float
  shards: int
  window: int
  threads: int
  prefetch: int

  def __post_init__(self):
    for name, (low, high) in RANGES.items():
      found = getattr(self, name)
      if not low <= found <= high:
        raise ValueError(
          f'expected {name} of at least {low} and at most {high}, found {found}; '
          'change it'
        )
    if not 0 <= self.broken <= 1:
      raise ValueError(
        f'expected broken from 0 to 1, found {self.broken}; use a share, such as 0.01'
      )
    if self.rows % self.shards:
      raise ValueError(
        f'expected rows that divide into shards, found rows={self.rows} and shards='
        f'{self.shards}; change one of them'
      )
    for step in sorted({step for each in self.sources.values() for step in each.since}):
      if not any(each.schedule.weight(step) for each in self.sources.values()):
        raise ValueError(
          f'expected a source with a weight above 0 at every step, found none at step '
          f'{step}; raise one in data.sources'
        )
    if not self.sources:
      raise ValueError(
        'expected sources, found none; set run.data.sources in the config file, as '
        'configs/folder.py does'
      )


def tokenizer(config: DataConfig) -> tokenizers.Tokenizer:
  """The tokenizer of the run."""
  forms = scene_forms(config)
  words = emoji_tasks.vocabulary(config.scenes, forms) if forms else ()
  return tokenizer_config.make(config.tokenizer, words)


def scene_forms(config: DataConfig) -> set[str]:
  """Kinds of documents that are made of emoji scenes; none where there are none."""
  return {source.form.kind for source in config.sources.values() if source.scenes}


def collections(config: DataConfig, split: str) -> dict[str, corpus.Collection]:
  """The documents of a split, by source.

  Raises:
    ValueError: a source cannot be opened.
  """
  pictures = None if config.moments else config.images
  return {
    name: corpus.open_collection(source, split, scenes=config.scenes, pictures=pictures)
    for name, source in config.sources.items()
  }


def contents(config: DataConfig) -> dict[str, str]:
  """Fingerprints of the files that the config names: `{field: fingerprint}`.

  Stored with a run, it shows where a file has changed that keeps its name.
  """
  found = {'data.tokenizer.path': tokenizer(config).fingerprint()}
  for name, opened in collections(config, 'train').items():
    found[f'data.sources.{name}.path'] = opened.fingerprint()
  return found


def batches(
  config: DataConfig,
  *,
  patches: int,
  image_shape: tuple[int, int, int],
  seed: int,
  rows: Sequence[int],
) -> grain.DatasetIterator[packing.Batch]:
  """Packed rows of the train split; see `packing.stack` for the keys.

  When every source has given its epochs, empty rows follow.

  Args:
    config: the data.
    patches: positions that a picture takes.
    image_shape: of a picture in a batch: `pixels(config)`, or that of stored moments.
    seed: of the order.
    rows: of every batch, those that are wanted, ascending.
  """
  plan = layout.Layout(tokenizer(config), patches=patches)
  shape = packing.Rows(
    count=config.rows,
    length=config.row_length,
    image_slots=config.image_slots,
    image_shape=image_shape,
    image_type=np.float16 if config.moments else np.uint8,
    pad=plan.tokenizer.special.pad,
  )
  members = _members(
    config, 'train', seed, lambda document, _: laid_out(config, plan, document)
  )

  def make(shard: int, pool) -> packing.Packer:
    mixed = _mixture(config, members, shard, pool)
    each = config.rows // config.shards
    return packing.Packer(mixed, shape, window=config.window, each=each)

  return _iterate(config, make, lambda bins: packing.stack(bins, shape), rows)


def pictures(
  config: DataConfig, *, split: str, seed: int, rows: Sequence[int]
) -> grain.DatasetIterator[packing.Batch]:
  """Batches `{'images': uint8 [b, h, w, 3]}` of a split's pictures without end.

  Args:
    config: the data; every document gives one picture.
    split: 'train' or 'test'.
    seed: of the order.
    rows: of every batch, those that are wanted, ascending.
  """
  config = with_pictures(config)
  members = _members(config, split, seed, one_picture)

  def make(shard: int, pool) -> iterators.Drawn:
    each = config.rows // config.shards
    return iterators.Drawn(_mixture(config, members, shard, pool), each=each)

  return _iterate(config, make, lambda made: {'images': np.stack(made)}, rows)


def shares(state: dict[str, Any]) -> dict[str, float]:
  """Share of each source in all positions since the weights last changed.

  Args:
    state: of an iterator, with the shards of one process or of all.
  """
  filled: dict[str, int] = {}
  for shard in state['shards'].values():
    for name, count in shard['source']['sources'].items():
      filled[name] = filled.get(name, 0) + count['filled']
  total = max(1, sum(filled.values()))
  return {name: count / total for name, count in filled.items()}


def pixels(config: DataConfig) -> tuple[int, int, int]:
  """Height, width and channels of every picture."""
  return config.images.height, config.images.width, 3


def with_pictures(config: DataConfig) -> DataConfig:
  """The sources that have pictures, without end and always by their largest weight."""
  endless = {
    name: dataclasses.replace(
      source, epochs=0, weights=(max(source.weights),), since=(0,)
    )
    for name, source in config.sources.items()
    if source.form.pictures
  }
  if not endless:
    raise ValueError(
      f'expected sources with pictures, found {sorted(config.sources)} of text alone; '
      'add one'
    )
  return dataclasses.replace(config, sources=endless)


def _members(
  config: DataConfig,
  split: str,
  seed: int,
  parts: Callable[[documents.Document, int], Sequence[Any]],
) -> dict[str, mixture.Member]:
  """The sources of a split; `parts` makes of a document and its index what is drawn."""

  def member(name: str, opened: corpus.Collection) -> mixture.Member:
    source = config.sources[name]
    endless = epochs.Endless(opened, name=name, seed=seed)
    return mixture.Member(
      make=lambda index: endless.made(index, lambda document: parts(document, index)),
      limit=epochs.limit(source, opened),
      schedule=source.schedule,
      size=len(endless),
    )

  opened = collections(config, split)
  return {name: member(name, each) for name, each in opened.items() if len(each)}


def _mixture(
  config: DataConfig, members: Mapping[str, mixture.Member], shard: int, pool
) -> mixture.Mixture:
  return mixture.Mixture(
    members,
    shard=shard,
    shards=config.shards,
    broken=config.broken,
    pool=pool,
    ahead=max(AHEAD, config.threads // config.shards),
  )


def _iterate(config: DataConfig, make, stack, rows) -> grain.DatasetIterator:
  pool = futures.ThreadPoolExecutor(config.threads) if config.threads else None
  return iterators.prefetched(
    lambda: shards.Shards(
      functools.partial(make, pool=pool),
      stack,
      count=config.rows,
      shards=config.shards,
      rows=rows,
    ),
    batches=config.prefetch,
  )


def laid_out(
  config: DataConfig, plan: layout.Layout, document: documents.Document
) -> list[layout.Sequence]:
  """A document as sequences that fit into rows, as the config says.

  Raises:
    ValueError: it does not fit, or (`documents.Unsuited`) has images where rows hold
      none.
  """
  pictures = sum(isinstance(each, documents.Image) for each in document)
  if pictures and not config.image_slots:
    raise documents.Unsuited(
      'a document with an image, which a transformer of text alone has no use for '
      '(data.image_slots=0)'
    )
  sequence = plan.document(document)
  policy = config.long_pictures if pictures else config.long_texts
  if len(sequence) <= config.row_length and pictures <= config.image_slots:
    return [sequence]
  if policy == 'refuse':
    field = 'long_pictures' if pictures else 'long_texts'
    raise ValueError(
      f'expected documents of at most {config.row_length} positions and '
      f'{config.image_slots} pictures, found one of {len(sequence)} and {pictures}; '
      f'raise data.row_length or data.image_slots, or set data.{field}=split'
    )
  parts = layout.cut(sequence, config.row_length, config.image_slots)
  return list(parts) if policy == 'split' else [next(parts)]


def one_picture(document: documents.Document, index: int) -> list[np.ndarray]:
  """One picture of every document, so that stories do not count more.

  Raises:
    documents.Unsuited: it has none.
  """
  shown = [each.pixels for each in document if isinstance(each, documents.Image)]
  if not shown:
    raise documents.Unsuited(
      'a document without an image, which an autoencoder has no use for'
    )
  return [shown[index % len(shown)]]
