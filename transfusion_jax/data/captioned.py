"""Pictures with all their captions, to compare with what a model draws and says."""

import numpy as np

from transfusion_jax.data import corpus, documents, emoji_scenes, held_out, images


class CaptionedPictures:
  """Random access to the captioned pictures of a source, in its own order."""

  def __init__(
    self,
    config: corpus.SourceConfig,
    *,
    scenes: emoji_scenes.EmojiScenesConfig,
    pictures: images.ImagesConfig,
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
