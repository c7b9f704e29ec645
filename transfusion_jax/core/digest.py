"""A short digest of arrays that does not depend on how they are sharded.

Every element, as an unsigned integer x of 32 bits, is weighted by an odd number h that
its place in the array decides; both sums are taken modulo 2^32:

    h = mix(sum_d i_d p^(D - d)) | 1,    lanes = (sum h x,  sum mix(x + h))      (1)

Sums of integers have no order, so that any sharding gives the same bits. A single
changed bit of x changes h x, because h is odd; two elements exchanged change both lanes
but for one case in 2^32.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32


def digest(tree: Any) -> UInt32[Array, ' 2']:
  """The digest (1) of all arrays of a pytree, the order of its leaves included.

  Inside `jit` it is computed where the arrays are. Elements of up to 4 bytes.
  """
  total = jnp.zeros(2, jnp.uint32)
  for index, leaf in enumerate(jax.tree.leaves(tree)):
    salt = jnp.uint32((0x9E3779B1 * (index + 1)) % 2**32)
    total = total * jnp.uint32(0x01000193) + _lanes(_integers(leaf), salt)
  return total


def text(lanes: Any) -> str:
  """A digest as sixteen hexadecimal digits."""
  first, second = (int(lane) for lane in lanes)
  return f'{first:08x}{second:08x}'


def _integers(x: Array) -> Array:
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.key_data(x)
  if x.dtype == jnp.bool_:
    return x.astype(jnp.uint32)
  kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
  return jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)


def _lanes(x: Array, salt: Array) -> UInt32[Array, ' 2']:
  place = jnp.full(x.shape, salt)
  for axis in range(x.ndim):
    along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    place = place * jnp.uint32(0x85EBCA77) + along
  weight = _mixed(place) | jnp.uint32(1)
  sums = (
    jnp.sum(weight * x, dtype=jnp.uint32),
    jnp.sum(_mixed(x + weight), dtype=jnp.uint32),
  )
  return jnp.stack(sums)


def _mixed(x: Array) -> Array:
  """Spreads every bit over all: shifts and odd multipliers, one to one."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)
