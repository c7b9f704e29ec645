"""Batches as the models see them."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from transfusion_jax.core import tree
from transfusion_jax.ops import span as span_lib


@tree.struct
class Batch:
  """Rows of packed documents, text and images interleaved.

  Attributes:
    tokens: text ids, BOI and EOI among them; a filler under image patches.
    targets: the next token.
    weight: 1 where the next token is to be learnt.
    position: counts from 0 within every document.
    start: first position of the row that each position sees.
    end: one past the last position seen; `start == end` is padding.
    images: clean latents (or pixels), one per image slot of the row.
    slot: which patch of the row's images stands here (image * n + patch), or -1.
    noise_cap: largest noise level the image may be given; 0: always clean context.
    image_weight: 1 where the image is to be denoised; 0: context, or an empty slot.
  """

  tokens: Int[Array, 'b t']
  targets: Int[Array, 'b t']
  weight: Float[Array, 'b t']
  position: Int[Array, 'b t']
  start: Int[Array, 'b t']
  end: Int[Array, 'b t']
  images: Num[Array, 'b i h w c']
  slot: Int[Array, 'b t']
  noise_cap: Float[Array, 'b i']
  image_weight: Float[Array, 'b i']

  @property
  def span(self) -> span_lib.Span:
    """The attention mask of every row."""
    return span_lib.Span(self.start, self.end)


@tree.struct
class Pictures:
  """Pixels alone, for an autoencoder: uint8 in [0, 255]."""

  images: Num[Array, 'b h w c']


def shapes(
  *, rows: int, length: int, slots: int, latents: tuple[int, int, int], sharding: Any
) -> Batch:
  """A `Batch` of `jax.ShapeDtypeStruct`, for tracing and compiling without data.

  Args:
    rows: of the batch, on all hosts.
    length: positions of a row.
    slots: images that a row can hold.
    latents: height, width and channels of an image.
    sharding: of every array.
  """

  def leaf(dtype, *shape):
    return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=sharding)

  whole = ('tokens', 'targets', 'position', 'start', 'end', 'slot')
  return tree.likeness(
    Batch,
    **{name: leaf(jnp.int32, length) for name in whole},
    weight=leaf(jnp.float32, length),
    images=leaf(jnp.float32, slots, *latents),
    noise_cap=leaf(jnp.float32, slots),
    image_weight=leaf(jnp.float32, slots),
  )


def picture_shapes(
  *, rows: int, shape: tuple[int, int, int], sharding: Any
) -> Pictures:
  """`Pictures` of a height, width and channels, as a `jax.ShapeDtypeStruct`."""
  leaf = jax.ShapeDtypeStruct((rows, *shape), jnp.uint8, sharding=sharding)
  return tree.likeness(Pictures, images=leaf)
