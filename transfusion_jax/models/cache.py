"""Keys and values of what was already read, as an explicit pytree."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transfusion_jax.core import axes, sharding, tree


@tree.struct
class LayerCache:
  """Keys and values of one layer."""

  k: Float[Array, 'b g s d']
  v: Float[Array, 'b g s d']


Cache = tuple[LayerCache, ...]
"""Caches of all layers, each with arrays of its own, which a loop can write to in
place.
"""


def empty(
  *, layers: int, batch: int, kv_heads: int, length: int, head_dim: int, dtype: str
) -> Cache:
  """A cache with room for `length` positions in every row and layer.

  On a mesh, rows and heads are divided like those of the activations.
  """

  def zeros():
    made = jnp.zeros((batch, kv_heads, length, head_dim), dtype)
    return sharding.divided(made, axes.ROWS, 'tensor')

  return tuple(LayerCache(zeros(), zeros()) for _ in range(layers))


def write(
  cache: LayerCache,
  k: Float[Array, 'b g t d'],
  v: Float[Array, 'b g t d'],
  at: Int[Array, ' b'],
) -> LayerCache:
  """Enters new keys and values of one layer, row `j` from its position `at[j]` on.

  They must fit behind `at[j]`, those of rows that wait as well: what does not would be
  moved forward, over positions that were read.
  """
  place = _alone if k.shape[0] == 1 else _at_once
  k, v = k.astype(cache.k.dtype), v.astype(cache.v.dtype)
  return LayerCache(place(cache.k, k, at), place(cache.v, v, at))


def _at_once(old, new, at):
  place = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
  return jax.vmap(place)(old, new, at)


def _alone(old, new, at):
  """One row, in a loop of one round that the compiler cannot know to be one.

  A plain write would be fused with what reads the cache next, and the cache be copied
  for it: at 2,048 positions that took a CPU twice as long as the rest of a token.
  """
  rounds = jnp.minimum(at[0] + 1, 1)
  return jax.lax.fori_loop(
    0,
    rounds,
    lambda _, kept: jax.lax.dynamic_update_slice(kept, new, (0, 0, at[0], 0)),
    old,
  )
