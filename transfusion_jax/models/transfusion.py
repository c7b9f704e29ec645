"""The Transfusion model: token embedding, image adapter, one transformer, two heads."""

import copy
import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transfusion_jax.core import sharding, tree
from transfusion_jax.models import batch as batch_lib
from transfusion_jax.models import cache as cache_lib
from transfusion_jax.models import layers, module, transformer
from transfusion_jax.models.adapters import adapter as adapter_lib
from transfusion_jax.models.adapters import linear as linear_lib
from transfusion_jax.models.adapters import unet
from transfusion_jax.ops import cross_entropy
from transfusion_jax.ops import span as span_lib


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
  """Choice of the image adapter; the section of that name holds its sizes."""

  kind: Literal['linear', 'unet']
  linear: linear_lib.LinearConfig
  unet: unet.UNetConfig


@dataclasses.dataclass(frozen=True)
class TransfusionConfig:
  """The whole model, but for the latents, which the autoencoder decides.

  Attributes:
    vocabulary: rows of the token table; 0 takes as many as the tokenizer needs.
    transformer: the decoder.
    adapter: between latents and the decoder.
  """

  vocabulary: int
  transformer: transformer.TransformerConfig
  adapter: AdapterConfig


@tree.struct
class Prediction:
  """Outputs of the model.

  Attributes:
    hidden: normalised hidden states, which `logits` and `nats` read.
    images: of the diffusion target, for every latent pixel of every image slot.
  """

  hidden: Float[Array, 'b t e']
  images: Float[Array, 'b i h w c']


class Transfusion(module.Module):
  """One transformer over text tokens and image patches (Transfusion, section 3)."""

  def __init__(
    self,
    rngs: module.Rngs,
    config: TransfusionConfig,
    *,
    table: int,
    used: int,
    channels: int,
  ):
    """Builds the model.

    Args:
      rngs: for the initial parameters.
      config: sizes.
      table: rows of the token table.
      used: rows that stand for tokens; the logits of the rest are -1e9.
      channels: of the latents.
    """
    width = config.transformer.width
    self.config, self.table, self.used = config, table, used
    self.embedding = module.weight(rngs, scale=1.0, vocab=table, embed=width)
    self.adapter = _adapter(rngs, config, channels=channels)
    self.transformer = transformer.Transformer(rngs, config.transformer)
    self.head = layers.Linear(
      rngs, width, table, axes=('embed', 'vocab'), scale=0.5, bias=False
    )

  def __call__(
    self,
    batch: batch_lib.Batch,
    noised: Float[Array, 'b i h w c'],
    t: Float[Array, 'b i'],
  ) -> Prediction:
    """Reads whole rows; `noised` are the rows' images at the noise levels `t`."""
    if not noised.shape[1]:  # a run of text alone does not touch the adapter
      hidden = self.transformer(self.embed(batch.tokens), batch.position, batch.span)
      return Prediction(hidden, jnp.zeros(noised.shape))
    dtype = self.config.transformer.dtype
    noised, t = sharding.positions(noised), sharding.positions(t)
    inward, skip = self.adapter.encode(noised.astype(dtype), t)
    b, i, n, e = inward.shape
    x = self._interleaved(inward, batch.tokens, batch.slot)
    hidden = self.transformer(x, batch.position, batch.span)
    outward = pick(hidden, batch.slot, i * n).reshape(b, i, n, e)
    images = self.adapter.decode(outward, t, skip).astype(jnp.float32)
    return Prediction(hidden, images)

  def _interleaved(self, inward, tokens, slot):
    """Vectors of tokens, and of patches where a slot names one."""
    b, i, n, e = inward.shape
    x = place(inward.reshape(b, i * n, e), slot)
    return jnp.where((slot >= 0)[..., None], x, self.embed(tokens))

  def embed(self, tokens: Int[Array, 'b t']) -> Float[Array, 'b t e']:
    """Vectors of text tokens, in the type of the activations."""
    return layers.look_up(self.embedding, tokens, self.config.transformer.dtype)

  def logits(self, hidden: Float[Array, 'b t e']) -> Float[Array, 'b t v']:
    """Logits of each next token, all at once: for a few positions."""
    logits = self.head(hidden).astype(jnp.float32)
    unused = jnp.arange(self.table) >= self.used
    return jnp.where(unused[None, None], -1e9, logits)

  def nats(
    self, hidden: Float[Array, 'b t e'], targets: Int[Array, 'b t']
  ) -> Float[Array, 'b t']:
    """Cross-entropy of each next token, without all of its logits in memory."""
    matrix = module.cast(self.head.matrix, hidden.dtype)
    return cross_entropy.cross_entropy(hidden, matrix, targets, used=self.used)

  def read(
    self,
    tokens: Int[Array, 'b t'],
    slot: Int[Array, 'b t'],
    images: Float[Array, 'b i h w c'],
    position: Int[Array, 'b t'],
    span: span_lib.Span,
    cache: cache_lib.Cache,
    at: Int[Array, ' b'],
  ) -> tuple[Float[Array, 'b t e'], cache_lib.Cache]:
    """Reads tokens and clean images into the cache; gives hidden states.

    Args:
      tokens: text ids; anything where an image stands.
      slot: which patch of the row's `images` stands here, or -1.
      images: latents at noise level 0; none (i = 0) for text alone.
      position: position of each within its document.
      span: keys that each query sees, counted in the cache.
      cache: keys and values of what stands before.
      at: index in the cache from which each row is written.
    """
    if not images.shape[1]:
      return self.transformer.read(self.embed(tokens), position, span, cache, at)
    t = jnp.zeros(images.shape[:2], jnp.float32)
    dtype = self.config.transformer.dtype
    inward, _ = self.adapter.encode(images.astype(dtype), t)
    x = self._interleaved(inward, tokens, slot)
    return self.transformer.read(x, position, span, cache, at)

  def denoise(
    self,
    image: Float[Array, 'b h w c'],
    t: Float[Array, ' b'],
    position: Int[Array, 'b n'],
    span: span_lib.Span,
    cache: cache_lib.Cache,
    at: Int[Array, ' b'],
  ) -> tuple[Float[Array, 'b h w c'], cache_lib.Cache]:
    """Reads one picture at noise level `t` into the cache; gives its prediction."""
    dtype = self.config.transformer.dtype
    inward, skip = self.adapter.encode(image[:, None].astype(dtype), t[:, None])
    hidden, cache = self.transformer.read(inward[:, 0], position, span, cache, at)
    images = self.adapter.decode(hidden[:, None], t[:, None], skip)
    return images[:, 0].astype(jnp.float32), cache

  def unstacked(self) -> 'Transfusion':
    """The same model, for a loop that reads many times; see `transformer`."""
    taken = copy.copy(self)
    taken.transformer = self.transformer.unstacked()
    return taken

  def patches(self, sides: tuple[int, int]) -> int:
    """Patches of a picture whose latents have these sides."""
    h, w = adapter_lib.grid(*sides, self.adapter.config.patch)
    return h * w

  def empty_cache(self, *, batch: int, length: int) -> cache_lib.Cache:
    """A cache for `batch` rows of at most `length` positions."""
    config = self.config.transformer
    return cache_lib.empty(
      layers=config.depth,
      batch=batch,
      kv_heads=config.kv_heads,
      length=length,
      head_dim=config.head_dim,
      dtype=config.dtype,
    )


def _adapter(rngs, config: TransfusionConfig, *, channels: int) -> Any:
  adapter, decoder = config.adapter, config.transformer
  sizes = {'channels': channels, 'embed': decoder.width}
  if adapter.kind == 'linear':
    return linear_lib.Linear(rngs, adapter.linear, **sizes)
  return unet.UNet(rngs, adapter.unet, **sizes, backend=decoder.attention)


def place(x: Float[Array, 'b p e'], slot: Int[Array, 'b t']) -> Float[Array, 'b t e']:
  """Patches at the positions that ask for them; zeros where `slot` is -1.

  A patch stands at one position at most, so that the gradient is a gather as well
  (`pick`) instead of a scatter-add.
  """
  return _move(x, slot, _positions(slot, x.shape[1]))


def pick(
  x: Float[Array, 'b t e'], slot: Int[Array, 'b t'], count: int
) -> Float[Array, 'b {count} e']:
  """The transpose of `place`: each patch's vector; zeros for patches of empty slots."""
  return _move(x, _positions(slot, count), slot)


def _positions(slot: Int[Array, 'b t'], count: int) -> Int[Array, 'b {count}']:
  """Place of each patch in its row, or -1."""
  b, t = slot.shape
  empty = jnp.full((b, count), -1, slot.dtype)
  index = jnp.where(slot >= 0, slot, count)
  here = jnp.broadcast_to(jnp.arange(t, dtype=slot.dtype)[None], (b, t))
  rows = jnp.arange(b)[:, None]
  return empty.at[rows, index].set(here, mode='drop')


@jax.custom_vjp
def _move(x, index, inverse):
  """`x` at `index` along axis 1, zeros where the index is negative."""
  del inverse
  moved = jnp.take_along_axis(x, jnp.maximum(index, 0)[..., None], axis=1)
  return jnp.where((index >= 0)[..., None], moved, jnp.zeros((), x.dtype))


def _move_forward(x, index, inverse):
  return _move(x, index, inverse), (index, inverse)


def _move_backward(indices, gradient):
  index, inverse = indices
  return _move(gradient, inverse, index), None, None


_move.defvjp(_move_forward, _move_backward)
