"""Keys and values of what was already read, as an explicit pytree."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transfusion_jax.core import tree


@tree.struct
class LayerCache:
  """Keys and values of one layer, or of all layers with a leading layer axis."""

  k: Float[Array, '*l b g s d']
  v: Float[Array, '*l b g s d']


def empty(
  *, layers: int, batch: int, kv_heads: int, length: int, head_dim: int, dtype: str
) -> LayerCache:
  """A cache with room for `length` positions in every row and layer."""
  shape = (layers, batch, kv_heads, length, head_dim)
  return LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def write(
  cache: LayerCache,
  k: Float[Array, 'b g t d'],
  v: Float[Array, 'b g t d'],
  at: Int[Array, ' b'],
) -> LayerCache:
  """Enters new keys and values of one layer, row `j` from its position `at[j]` on.

  What would stand beyond the end is dropped: rows that wait while others are read, and
  padding, may reach over it. (`dynamic_update_slice` would move such a row's entries
  forward, over positions that were read.)
  """
  count = k.shape[2]

  def place(old, new, index):
    begin = jnp.minimum(index, old.shape[1] - count)
    over = index - begin
    kept = jax.lax.dynamic_slice_in_dim(old, begin, count, axis=1)
    new = jnp.roll(new.astype(old.dtype), over, axis=1)
    new = jnp.where((jnp.arange(count) >= over)[None, :, None], new, kept)
    return jax.lax.dynamic_update_slice_in_dim(old, new, begin, axis=1)

  return LayerCache(jax.vmap(place)(cache.k, k, at), jax.vmap(place)(cache.v, v, at))
