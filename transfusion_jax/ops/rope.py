"""Rotary position embedding (Su et al., 2021, eq. 34), half-rotation layout.

Components x_j and x_{j + d/2} of a head of d numbers are a pair, which is rotated by an
angle proportional to the position:

    y = x cos + swap(x) sin,   swap(x) = (x_{d/2} .. x_{d-1}, x_0 .. x_{d/2-1})     (1)

with the sines of the first half negated.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transfusion_jax.core import tree
from transfusion_jax.ops import rope_tpu


@tree.struct
class Rotation:
  """Cosine and sine of (1) at every position, shared by all layers.

  Attributes:
    cos: cosines, the same in both halves.
    sin: sines, negated in the first half.
  """

  cos: Float[Array, 'b 1 t d']
  sin: Float[Array, 'b 1 t d']


def rotation(position: Int[Array, 'b t'], *, head_dim: int, base: float) -> Rotation:
  """Angles `position * base^(-2 j / head_dim)` for the `head_dim / 2` frequencies."""
  exponent = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
  frequency = (base**-exponent)[None, None, None]
  angle = position[:, None, :, None].astype(jnp.float32) * frequency
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  cos = jnp.concatenate([cos, cos], axis=-1)
  return Rotation(cos, jnp.concatenate([-sin, sin], axis=-1))


def rotate(
  x: Float[Array, 'b h t d'], by: Rotation, *, backend: str
) -> Float[Array, 'b h t d']:
  """Rotates the pairs of every head, (1), in float32.

  Args:
    x: queries or keys.
    by: result of `rotation` for their positions.
    backend: attention backend; `tpu` uses a kernel if it supports the shape of `x`.
  """
  if backend == 'tpu' and rope_tpu.takes(x):
    return rope_tpu.rotate(x, by.cos, by.sin)
  pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], 2, -1)
  cos, sin = (y.reshape(*y.shape[:-1], 2, -1) for y in (by.cos, by.sin))
  rotated = pairs * cos + pairs[..., ::-1, :] * sin
  return rotated.reshape(x.shape).astype(x.dtype)
