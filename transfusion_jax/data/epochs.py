"""The documents of a source without end: every epoch is shuffled anew."""

import zlib
from collections.abc import Callable
from typing import TypeVar

import grain
import numpy as np

from transfusion_jax.data import corpus, documents

T = TypeVar('T')


class Endless:
  """Documents by an index without end: epoch after epoch, each in an order of its own.

  Index and seed decide the document and all that is left to chance in it.
  """

  def __init__(self, collection: corpus.Collection, *, name: str, seed: int):
    """Shuffles.

    Args:
      collection: the documents.
      name: of the source, so that two of the same size do not go side by side; scenes
        go by the seed alone, unless they are made tasks of.
      seed: of the order and of what is left to chance.

    Raises:
      ValueError: there are no documents, or more than can be shuffled.
    """
    if not 1 <= len(collection) <= corpus.MOST:
      raise ValueError(
        f'expected 1 to {corpus.MOST:,} documents in data.sources.{name}, found '
        f'{len(collection):,}; give it another path, or divide it into several sources'
      )
    self._collection = collection
    plain = isinstance(collection, corpus.Scenes) and not collection.tasks
    salt = 0 if plain else zlib.crc32(name.encode())
    self._entropy = (seed % 2**32, salt)
    numbers = grain.MapDataset.range(len(collection))
    self._order = numbers.shuffle(seed=(seed + salt) % 2**32).repeat()

  def __getitem__(self, index: int) -> documents.Document:
    rng = np.random.default_rng(np.random.SeedSequence((*self._entropy, index)))
    return self._collection.document(int(self._order[index]), rng)

  def __len__(self) -> int:
    """Documents of an epoch."""
    return len(self._collection)

  def made(self, index: int, make: Callable[[documents.Document], T]) -> T:
    """Makes a document of one of them; a ValueError names it."""
    with documents.named(lambda: self._collection.name(int(self._order[index]))):
      return make(self[index])


def limit(config: corpus.SourceConfig, collection: corpus.Collection) -> int | None:
  """Documents that training takes from a source in all; None: without end."""
  return config.epochs * len(collection) if config.epochs else None
