"""Documents to measure a model on: the first of a source, in its own order."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from transfusion_jax.core import log
from transfusion_jax.data import corpus, documents
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.images import image_files

NAMED = 5
"""Documents that were left out and are named in the log."""

LOOKED = 300
"""Documents among which one is looked for that can be measured on."""


def opened(
  config: corpus.SourceConfig,
  *,
  scenes: emoji_scenes.EmojiScenesConfig,
  pictures: image_files.ImagesConfig,
) -> corpus.Collection:
  """Held-out documents to measure on.

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
    pictures: image_files.ImagesConfig,
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

  def require(self, *, text: bool = False, images: bool = False) -> None:
    """Checks that there is something to measure on, before a model is there.

    Args:
      text: whether a document has to hold text that is learnt.
      images: whether one has to hold an image that is learnt.

    Raises:
      ValueError: none of the first documents is sound, or holds these.
    """
    wanted = {documents.Text: text, documents.Image: images}
    looked = min(LOOKED, self._count)
    kinds = {kind for kind, needed in wanted.items() if needed}
    for document in self._sound(looked, named=0):
      if kinds <= {type(each) for each in document if each.learn}:
        return
    needed = ' and '.join(kind.__name__.lower() for kind in wanted if kind in kinds)
    raise ValueError(
      f'expected documents with {needed} that is learnt in {self._name}, found none '
      f'among {looked}; name another source, or other fields in `form`'
    )

  def __iter__(self) -> Iterator[documents.Document]:
    """The documents; `left_out` is how many there were besides.

    Raises:
      ValueError: all are left out.
    """
    yield from self._sound(self._count, named=NAMED)

  def _sound(self, count: int, named: int) -> Iterator[documents.Document]:
    """Numbers of the first documents that are sound; some others are logged."""
    self.left_out = 0
    for index in range(count):
      try:
        document = self._collection.document(index, np.random.default_rng(index))
      except ValueError as error:
        self.left_out += 1
        if self.left_out <= named:
          log.info(f'left out: {error}')
        if self.left_out == count:
          raise ValueError(
            f'expected documents to measure on in {self._name}, found none of '
            f'{count} sound, the last: {error}; name another path or other fields'
          ) from error
        continue
      yield document
