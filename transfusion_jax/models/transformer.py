"""The decoder: Llama blocks (RMSNorm, SwiGLU, RoPE) under span attention, scanned.

x = x + attention(norm(x));   x = x + swiglu(norm(x))           (pre-norm residuals)
"""

import copy
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transfusion_jax.core import sharding
from transfusion_jax.models import cache as cache_lib
from transfusion_jax.models import layers, module
from transfusion_jax.ops import attention, context, rope
from transfusion_jax.ops import span as span_lib

Remat = Literal['none', 'full', 'minimal', 'save_attention']


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Sizes and choices of the decoder.

  Attributes:
    depth: layers.
    width: the residual stream's width e.
    heads: query heads.
    kv_heads: key and value heads, dividing `heads`; fewer is grouped-query attention.
    head_dim: width of one head, even.
    mlp: hidden width of SwiGLU.
    rope_base: theta of the rotary embedding.
    norm_epsilon: added to the mean square in RMSNorm.
    qk_norm: RMSNorm on queries and keys of every head.
    dtype: type of activations; parameters stay float32.
    remat: what the backward pass recomputes: `none` nothing, `full` everything,
      `minimal` all but matrix products, `save_attention` all but attention outputs.
    unroll: layers per iteration of the scan; `depth` unrolls it altogether.
    attention: backend of span attention, of the rotation before it, and of attention
      within the pictures of a U-Net.
  """

  depth: int
  width: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp: int
  rope_base: float
  norm_epsilon: float
  qk_norm: bool
  dtype: Literal['float32', 'bfloat16']
  remat: Remat
  unroll: int
  attention: attention.Backend


class Attention(module.Module):
  """Multi-head span attention with rotary positions."""

  def __init__(self, rngs: module.Rngs, config: TransformerConfig):
    width, d = config.width, config.head_dim
    if config.heads % config.kv_heads or d % 2:
      raise ValueError(
        'expected kv_heads that divide heads and an even head_dim, found '
        f'heads={config.heads}, kv_heads={config.kv_heads}, head_dim={d}; change '
        'model.transformer'
      )
    self.config = config
    self.query = module.weight(
      rngs, scale=1.0, fan_in=width, embed=width, heads=config.heads, head_dim=d
    )
    for name in ('key', 'value'):
      made = module.weight(
        rngs, scale=1.0, fan_in=width, embed=width, kv_heads=config.kv_heads, head_dim=d
      )
      setattr(self, name, made)
    self.out = module.weight(
      rngs,
      scale=1 / math.sqrt(2 * config.depth),
      fan_in=config.heads * d,
      heads=config.heads,
      head_dim=d,
      embed=width,
    )
    norm = functools.partial(layers.RMSNorm, d, epsilon=config.norm_epsilon)
    self.query_norm = norm() if config.qk_norm else None
    self.key_norm = norm() if config.qk_norm else None

  def __call__(self, x, rotation, span, cache, at):
    backend = self.config.attention
    q, k, v = (_heads(x, each) for each in (self.query, self.key, self.value))
    if self.query_norm is not None:
      q, k = self.query_norm(q), self.key_norm(k)
    rotate = functools.partial(context.rotate, by=rotation, backend=backend)
    q, k = rotate(q), rotate(k)
    if cache is not None:
      cache = cache_lib.write(cache, k, v, at)
      k, v = cache.k.astype(x.dtype), cache.v.astype(x.dtype)
    o = context.attend(q, k, v, span, backend=backend)
    return _joined(o, self.out), cache


def _heads(x: Float[Array, 'b t e'], parameter) -> Float[Array, 'b h t d']:
  """A projection into heads, which come before positions (see `ops/attention.py`).

  Many positions on many devices are projected as one product, whose layout the compiler
  chooses. For one position the transpose is nothing, and a product with the matrix as
  it lies in memory reads it once; on one device it is faster for many too.
  """
  matrix = module.cast(parameter, x.dtype)
  if x.shape[1] > 1 and sharding.divides():
    return jnp.einsum('bte,ehd->bhtd', x, matrix)
  e, h, d = matrix.shape
  y = layers.project(x, matrix.reshape(e, h * d))
  return jnp.swapaxes(y.reshape(*x.shape[:2], h, d), 1, 2)


def _joined(o: Float[Array, 'b h t d'], parameter) -> Float[Array, 'b t e']:
  """The projection back."""
  matrix = module.cast(parameter, o.dtype)
  if o.shape[2] > 1 and sharding.divides():
    return jnp.einsum('bhtd,hde->bte', o, matrix)
  h, d, e = matrix.shape
  o = jnp.swapaxes(o, 1, 2)
  return layers.project(o.reshape(*o.shape[:2], h * d), matrix.reshape(h * d, e))


class SwiGLU(module.Module):
  """Gated feed-forward layer (Shazeer, 2020): `down(silu(gate x) * up x)`."""

  def __init__(self, rngs: module.Rngs, config: TransformerConfig):
    width, mlp = config.width, config.mlp
    self.gate = module.weight(rngs, scale=1.0, fan_in=width, embed=width, mlp=mlp)
    self.up = module.weight(rngs, scale=1.0, fan_in=width, embed=width, mlp=mlp)
    scale = 1 / math.sqrt(2 * config.depth)
    self.down = module.weight(rngs, scale=scale, fan_in=mlp, mlp=mlp, embed=width)

  def __call__(self, x: Float[Array, 'b t e']) -> Float[Array, 'b t e']:
    gate = layers.project(x, module.cast(self.gate, x.dtype))
    up = layers.project(x, module.cast(self.up, x.dtype))
    hidden = jax.nn.silu(gate) * up
    return layers.project(hidden, module.cast(self.down, x.dtype))


class Block(module.Module):
  """One layer."""

  def __init__(self, rngs: module.Rngs, config: TransformerConfig):
    self.attention_norm = layers.RMSNorm(config.width, epsilon=config.norm_epsilon)
    self.attention = Attention(rngs, config)
    self.mlp_norm = layers.RMSNorm(config.width, epsilon=config.norm_epsilon)
    self.mlp = SwiGLU(rngs, config)

  def __call__(self, x, rotation, span, cache, at):
    seen, cache = self.attention(self.attention_norm(x), rotation, span, cache, at)
    x = x + seen
    return x + self.mlp(self.mlp_norm(x)), cache


class Transformer(module.Module):
  """All layers and the final norm; layers are stacked and scanned."""

  def __init__(self, rngs: module.Rngs, config: TransformerConfig):
    self.config = config
    self.blocks = module.stack(lambda r: Block(r, config), rngs, config.depth)
    self.norm = layers.RMSNorm(config.width, epsilon=config.norm_epsilon)

  def __call__(
    self,
    x: Float[Array, 'b t e'],
    position: Int[Array, 'b t'],
    span: span_lib.Span,
  ) -> Float[Array, 'b t e']:
    """Reads whole rows.

    Args:
      x: embedded tokens and patches.
      position: position of each within its document.
      span: keys that each query sees, counted in the row.

    Returns:
      Normalised hidden states.
    """
    rotation, span = self._prepared(position, span, x.shape[1])

    def layer(block, x):
      x, _ = block(sharding.positions(x), rotation, span, None, None)
      return sharding.positions(x)

    layer = rematerialised(layer, self.config.remat)
    x = x.astype(self.config.dtype)
    x, _ = jax.lax.scan(
      lambda x, block: (layer(block, x), None),
      x,
      self.blocks,
      unroll=self.config.unroll,
    )
    return self.norm(x)

  def read(
    self,
    x: Float[Array, 'b t e'],
    position: Int[Array, 'b t'],
    span: span_lib.Span,
    cache: cache_lib.Cache,
    at: Int[Array, ' b'],
  ) -> tuple[Float[Array, 'b t e'], cache_lib.Cache]:
    """Reads a stretch of every row behind what is in the cache.

    Layers come one after the other and not in a scan, which would copy the whole cache
    for every stretch: in and out of the stack of layers.

    Args:
      x: embedded tokens and patches.
      position: position of each within its document.
      span: keys that each query sees, counted in the cache.
      cache: keys and values of what stands before, by layer; with room for all of `x`
        behind each row's end.
      at: index in the cache from which each row's new keys and values are written.

    Returns:
      Normalised hidden states, and the cache with the new entries.
    """
    rotation, span = self._prepared(position, span, cache[0].k.shape[2])
    x = x.astype(self.config.dtype)
    grown = []
    for block, kept in zip(self._layers(), cache, strict=True):
      x, kept = block(sharding.positions(x), rotation, span, kept, at)
      grown.append(kept)
    return self.norm(sharding.positions(x)), tuple(grown)

  def unstacked(self) -> 'Transformer':
    """The same with every layer's parameters by themselves.

    A loop that reads many times slices the stack before it and not in each round.
    """
    taken = copy.copy(self)
    taken.blocks = module.List(self._layers())
    return taken

  def _layers(self) -> Sequence[Block]:
    if isinstance(self.blocks, module.List):
      return self.blocks
    return [module.layer(self.blocks, k) for k in range(self.config.depth)]

  def _prepared(self, position, span, keys: int):
    """Inputs shared by all layers: rotations, and the spans as attention wants them."""
    config = self.config
    rotation = rope.rotation(position, head_dim=config.head_dim, base=config.rope_base)
    return rotation, context.prepare(span, keys, backend=config.attention)


def rematerialised(layer, policy: Remat):
  """Wraps a layer so that the backward pass recomputes what the policy does not save.

  Raises:
    ValueError: no such policy.
  """
  policies = jax.checkpoint_policies
  saved = {
    'full': policies.nothing_saveable,
    'minimal': policies.dots_with_no_batch_dims_saveable,
    'save_attention': policies.save_only_these_names('attention'),
  }
  if policy == 'none':
    return layer
  if policy not in saved:
    raise ValueError(
      f'expected a remat policy of {["none", *saved]}, found {policy!r}; change '
      'model.transformer.remat'
    )
  return jax.checkpoint(layer, policy=saved[policy])
