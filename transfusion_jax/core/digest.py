"""Digest of arrays that is independent of their sharding.

Every element, read as an unsigned 32-bit integer x, is weighted by an odd number h that
depends on its index i; both sums are taken modulo 2^32:

    h = mix(sum_d i_d p^(D - d)) | 1,    lanes = (sum h x,  sum mix(x + h))      (1)

Integer sums do not depend on their order, so any sharding gives the same bits. One
changed bit of x changes h x, because h is odd. Two swapped elements change both lanes,
except for one case in 2^32.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32


def digest(tree: Any) -> UInt32[Array, ' 2']:
  """Digest (1) of all arrays of a pytree; depends on the order of its leaves.

  Under `jit` it is computed on the devices that hold the arrays. Element types have up
  to 4 bytes.
  """
  total = jnp.zeros(2, jnp.uint32)
  for index, leaf in enumerate(jax.tree.leaves(tree)):
    salt = jnp.uint32((0x9E3779B1 * (index + 1)) % 2**32)
    total = total * jnp.uint32(0x01000193) + _lanes(_integers(leaf), salt)
  return total


def text(lanes: Any) -> str:
  """Digest as sixteen hexadecimal digits."""
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
  """Bijective bit mixing: xor-shifts and odd multipliers."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)
