"""Pictures with all their captions, to compare with what a model draws and says."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from transfusion_jax.core import log
from transfusion_jax.data import corpus, documents, held_out
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.images import image_files


class CaptionedPictures:
  """Random access to the captioned pictures of a source, in its own order."""

  def __init__(
    self,
    config: corpus.SourceConfig,
    *,
    scenes: emoji_scenes.EmojiScenesConfig,
    pictures: image_files.ImagesConfig,
  ):
    """Opens the source.

    Args:
      config: the source, of captioned records or of scenes; see `held_out.opened`.
      scenes: which emoji scenes, where it is those.
      pictures: their size.

    Raises:
      ValueError: there is no such source, or it is of another kind.
    """
    if config.form.kind != 'captioned':
      raise ValueError(
        "expected a source of form 'captioned', found "
        f'{config.form.kind!r}; set source.form.kind'
      )
    self._collection = held_out.opened(config, scenes=scenes, pictures=pictures)
    self._name = config.path or config.kind

  def __len__(self) -> int:
    return len(self._collection)

  def __getitem__(self, index: int) -> documents.Captioned:
    """One of them; a ValueError names what is broken."""
    return self._collection.captioned(index)

  def sound(self, numbers: Sequence[int]) -> Iterator[tuple[int, documents.Captioned]]:
    """Numbers of records that have an image and a caption.

    In place of one that lacks either or is broken comes another, drawn at random, as
    long as there are any.

    Args:
      numbers: those that are wanted, all different.

    Raises:
      ValueError: there is none.
    """
    others, found, left_out = self._others(numbers), 0, 0
    for wanted in numbers:
      for number in itertools.chain([wanted], others):
        try:
          made = self[number]
        except ValueError as error:
          last, left_out = error, left_out + 1
          if left_out <= held_out.NAMED:
            log.info(f'left out: {error}')
          continue
        found += 1
        yield number, made
        break
    if not found:
      raise ValueError(
        f'expected captioned pictures in {self._name}, found none among {left_out}, '
        f'the last: {last}; name another source or other fields in its form'
      ) from last

  def check(self) -> None:
    """Looks through the first for one that has picture and caption.

    Raises:
      ValueError: there is none among them.
    """
    for number in range(looked := min(held_out.LOOKED, len(self))):
      try:
        _ = self[number]
        return
      except ValueError as error:
        last = error
    raise ValueError(
      f'expected captioned pictures in {self._name}, found none among {looked}, the '
      f'last: {last}; name another source or other fields in its form'
    ) from last

  def _others(self, numbers: Sequence[int]) -> Iterator[int]:
    """All but these, each once, drawn at random."""
    taken, random = set(numbers), np.random.default_rng(len(numbers))
    while len(taken) < len(self):
      number = int(random.integers(len(self)))
      if number not in taken:
        taken.add(number)
        yield number

  def choose(self, count: int, seed: int) -> list[int]:
    """Numbers of so many pictures, all different, in random order; 0: of all.

    Raises:
      ValueError: there are fewer, or too many to take them all.
    """
    there = len(self)
    if count > there or not there:
      raise ValueError(
        f'expected at least {max(count, 1):,} pictures in {self._name}, found '
        f'{there:,}; ask for fewer, or name another source'
      )
    if not count and there == corpus.MOST:
      raise ValueError(
        f'expected a number of pictures, found 0 for all of {self._name}, which has no '
        'end; name one'
      )
    random = np.random.default_rng(seed)
    return random.choice(there, count or there, replace=False).tolist()
