"""Documents to measure a model on: the first of a source, in its own order."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from transfusion_jax.core import log
from transfusion_jax.data import corpus, documents, emoji_scenes, images

NAMED = 5
"""Documents that were left out and are named in the log."""


def opened(
  config: corpus.SourceConfig,
  *,
  scenes: emoji_scenes.EmojiScenesConfig,
  pictures: images.ImagesConfig,
) -> corpus.Collection:
  """What there is to measure on.

  Of a source of which training leaves some out it is that; of scenes it is the test
  split; any other source is taken to be made for measuring, and is read whole.

  Args:
    config: the source.
    scenes: which emoji scenes, where it is those.
    pictures: their size; always the middle of them.

  Raises:
    ValueError: there is no such source, or it has other fields.
  """
  whole = not config.heldout and 'emoji_scenes' not in config.kind
  found = corpus.open_collection(
    config,
    'train' if whole else 'test',
    scenes=scenes,
    pictures=dataclasses.replace(pictures, crop='center'),
  )
  found.check()
  return found


class HeldOut:
  """Some documents, the same whenever they are asked for.

  What cannot be a document is left out: data sets of text often hold empty lines.
  """

  def __init__(
    self,
    config: corpus.SourceConfig,
    *,
    scenes: emoji_scenes.EmojiScenesConfig,
    pictures: images.ImagesConfig,
    count: int,
  ):
    """Opens the source.

    Args:
      config: the source; see `opened`.
      scenes: which emoji scenes, where it is those.
      pictures: their size.
      count: documents at most; 0: all of them.

    Raises:
      ValueError: there is no such source, or it has no such documents.
    """
    self._collection = opened(config, scenes=scenes, pictures=pictures)
    there, self._name = len(self._collection), config.path or config.kind
    if not there or (not count and there == corpus.MOST):
      raise ValueError(
        f'expected documents to measure on in {self._name}, found '
        f'{"no end of them" if there else "none"}; name another source, or a number'
      )
    self._count = min(count or there, there)
    self.left_out = 0

  def __iter__(self) -> Iterator[documents.Document]:
    """The documents; `left_out` is how many there were besides.

    Raises:
      ValueError: all are left out.
    """
    self.left_out = 0
    for index in range(self._count):
      try:
        document = self._collection.document(index, np.random.default_rng(index))
      except ValueError as error:
        self.left_out += 1
        if self.left_out <= NAMED:
          log.info(f'left out: {error}')
        if self.left_out == self._count:
          raise ValueError(
            f'expected documents to measure on in {self._name}, found none of '
            f'{self._count} sound, the last: {error}; name another path or other fields'
          ) from error
        continue
      yield document
