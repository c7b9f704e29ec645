"""Requests to a model, and its replies: documents to be continued."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key, UInt8

from transfusion_jax.data.rows import layout
from transfusion_jax.generation import logits as logits_lib
from transfusion_jax.generation import mixed

Picture = UInt8[np.ndarray, 'h w 3']


@dataclasses.dataclass(frozen=True)
class Request:
  """A document to be continued.

  Attributes:
    prompt: its beginning; one that ends in BOI goes on with a picture.
    key: of all that is drawn at random.
    text: how text is written.
    pictures: most pictures that are drawn; with the next one the document ends.
  """

  prompt: layout.Sequence
  key: Key[Array, '']
  text: logits_lib.TextSampling
  pictures: int


@dataclasses.dataclass(frozen=True)
class Piece:
  """A part of a continuation: words, or a picture as uint8 pixels [h, w, 3]."""

  text: str | None
  picture: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Score:
  """Log-likelihood of a continuation.

  Attributes:
    nats: its negative log-probability.
    tokens: over which `nats` is the sum.
    greedy: whether it is what the model itself would write.
  """

  nats: float
  tokens: int
  greedy: bool


@dataclasses.dataclass(frozen=True)
class Given:
  """Pictures that are changed instead of being drawn from nothing.

  Attributes:
    pictures: one per request, pixels.
    masks: True where a picture is to be drawn anew; None: everywhere.
    strength: noise level at which denoising begins; 1 is from nothing.
  """

  pictures: Sequence[Picture]
  masks: Sequence[np.ndarray] | None
  strength: float

  def __post_init__(self):
    if not 0 < self.strength <= 1:
      raise ValueError(
        f'expected a strength above 0 and up to 1, found {self.strength}; change it'
      )
    for picture, mask in zip(self.pictures, self.masks or (), strict=bool(self.masks)):
      if mask.shape != picture.shape[:2] or mask.dtype != bool:
        raise ValueError(
          f'expected a mask of {picture.shape[:2]} booleans, found {mask.shape} '
          f'{mask.dtype}; make it as large as the picture'
        )


def sampling_params(
  requests: Sequence[Request], limits: np.ndarray, allowed: Bool[Array, ' v']
) -> mixed.SamplingParams:
  """Sampling parameters of all requests; `limits` are those of their tokens."""
  texts = [request.text for request in requests]
  keys = jnp.stack([request.key for request in requests])
  text_keys, image_keys = (
    jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, which) for which in (0, 1)
  )
  choices = logits_lib.Choices(
    temperature=jnp.asarray([text.temperature for text in texts], jnp.float32),
    top_k=jnp.asarray([text.top_k for text in texts], jnp.int32),
    top_p=jnp.asarray([text.top_p for text in texts], jnp.float32),
    min_p=jnp.asarray([text.min_p for text in texts], jnp.float32),
  )
  return mixed.SamplingParams(
    text_keys=text_keys,
    image_keys=image_keys,
    choices=choices,
    limit=jnp.asarray(limits),
    pictures=jnp.asarray([request.pictures for request in requests], jnp.int32),
    allowed=allowed,
  )


def kept(picture: Picture, mask: np.ndarray, drawn: Picture) -> Picture:
  """A picture that is drawn anew where the mask is True, and exact elsewhere."""
  return np.where(mask[..., None], drawn, picture)


def cut(pieces: list[Piece], stop: Sequence[str]) -> list[Piece]:
  """The pieces before the first stop string."""
  kept = []
  for piece in pieces:
    ends = [piece.text.find(end) for end in stop] if piece.text is not None else []
    ends = [end for end in ends if end >= 0]
    if ends:
      return [*kept, *([Piece(piece.text[: min(ends)], None)] if min(ends) else [])]
    kept.append(piece)
  return kept
