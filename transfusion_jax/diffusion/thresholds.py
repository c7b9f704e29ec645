"""Bounds on predicted data.

Dividing by alpha near t = 1 enlarges errors by up to 2e4, and guidance pushes
predictions beyond what data looks like. Static thresholding clips to a bound; dynamic
thresholding (Imagen, Saharia et al., 2022, section 2.3) clips a picture to a high
percentile of its own magnitudes and divides by it.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def bound(
  x0: Float[Array, 'b h w c'], *, limit: float, percentile: float
) -> Float[Array, 'b h w c']:
  """Predicted data within +-limit.

  Args:
    x0: predicted data.
    limit: largest magnitude; 0 leaves the data as it is.
    percentile: 0 clips; else a picture whose percentile of magnitudes exceeds the limit
      is clipped to that percentile and scaled down to the limit.
  """
  if not limit:
    return x0
  if not percentile:
    return jnp.clip(x0, -limit, limit)
  found = jnp.percentile(jnp.abs(x0), percentile, axis=(1, 2, 3), keepdims=True)
  top = jnp.maximum(found, limit)
  return jnp.clip(x0, -top, top) * (limit / top)
