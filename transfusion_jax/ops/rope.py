"""Rotary position embedding (Su et al., 2021, eq. 34), half-rotation layout."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transfusion_jax.core import tree


@tree.struct
class Rotation:
  """Cosine and sine of every position and frequency, shared by all layers."""

  cos: Float[Array, 'b 1 t f']
  sin: Float[Array, 'b 1 t f']


def rotation(position: Int[Array, 'b t'], *, head_dim: int, base: float) -> Rotation:
  """Angles `position * base^(-2 j / head_dim)` for the `head_dim / 2` frequencies."""
  exponent = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
  frequency = (base**-exponent)[None, None, None]
  angle = position[:, None, :, None].astype(jnp.float32) * frequency
  return Rotation(jnp.cos(angle), jnp.sin(angle))


def rotate(x: Float[Array, 'b h t d'], by: Rotation) -> Float[Array, 'b h t d']:
  """Rotates the pairs (x_j, x_{j + d/2}) of every head, in float32."""
  left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = [left * by.cos - right * by.sin, right * by.cos + left * by.sin]
  return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
