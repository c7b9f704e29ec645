"""Normalisation, computed in float32 whatever the input's type."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def rms_norm(
  x: Float[Array, '*b e'], gain: Float[Array, ' e'], *, epsilon: float
) -> Float[Array, '*b e']:
  """Divides by the root mean square (Zhang and Sennrich, 2019, eq. 4)."""
  y = x.astype(jnp.float32)
  y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + epsilon)
  return (y * jnp.expand_dims(gain, tuple(range(x.ndim - 1)))).astype(x.dtype)


def group_norm(
  x: Float[Array, 'b h w c'],
  gain: Float[Array, ' c'],
  bias: Float[Array, ' c'],
  *,
  groups: int,
  epsilon: float,
) -> Float[Array, 'b h w c']:
  """Normalises mean and variance per sample and group (Wu and He, 2018)."""
  b, h, w, c = x.shape
  y = x.astype(jnp.float32).reshape(b, h, w, groups, c // groups)
  mean = jnp.mean(y, axis=(1, 2, 4), keepdims=True)
  variance = jnp.mean(jnp.square(y - mean), axis=(1, 2, 4), keepdims=True)
  y = ((y - mean) * jax.lax.rsqrt(variance + epsilon)).reshape(x.shape)
  return (y * gain[None, None, None] + bias[None, None, None]).astype(x.dtype)
