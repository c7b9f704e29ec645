"""A document: text and images in reading order, before any of it is a number."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float16, UInt8


@dataclasses.dataclass(frozen=True)
class Text:
  """A stretch of text; `learn` says whether predicting it is part of the loss."""

  text: str
  learn: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Image:
  """A picture standing in the text.

  `learn` says whether denoising it (and announcing it with BOI) is part of the loss.
  `noise_cap` is the largest noise level, 0 (clean) to 1 (pure noise), that it may be
  given in training: 1 as a rule, 0.5 before its own caption (Transfusion, Table 8),
  0 for a context that is always clean. Instead of pixels it may hold the mean and the
  log-variance of its latents, side by side, as `encode_images` has stored them.
  """

  pixels: UInt8[np.ndarray, 'h w 3'] | Float16[np.ndarray, 'y x m']
  learn: bool
  noise_cap: float

  def __post_init__(self):
    if not 0 <= self.noise_cap <= 1:
      raise ValueError(
        f'expected a noise_cap from 0 to 1, found {self.noise_cap}; '
        'use 1 for an image without a cap'
      )


@dataclasses.dataclass(frozen=True, eq=False)
class Captioned:
  """A picture and all that is said of it, to measure a model by."""

  picture: UInt8[np.ndarray, 'h w 3']
  captions: tuple[str, ...]


Document = tuple[Text | Image, ...]


class Unsuited(ValueError):
  """A document that is sound, and that a stage of training has no use for.

  Attributes:
    reason: of what kind the document is, and by whom it is passed over.
  """

  def __init__(self, reason: str, place: str = ''):
    super().__init__(f'{place}: {reason}' if place else reason)
    self.reason = reason


@contextlib.contextmanager
def named(name: Callable[[], str]) -> Iterator[None]:
  """Puts the name of a document before what is wrong with it, all on one line."""
  try:
    yield
  except ValueError as error:
    reason, place = (' '.join(each.splitlines()) for each in (str(error), name()))
    if isinstance(error, Unsuited):
      raise Unsuited(error.reason, place) from error
    raise ValueError(reason if place in reason else f'{place}: {reason}') from error
