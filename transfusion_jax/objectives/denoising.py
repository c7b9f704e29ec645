"""Denoising: the image half of the loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from transfusion_jax.diffusion import path as path_lib
from transfusion_jax.diffusion import times
from transfusion_jax.models import batch as batch_lib
from transfusion_jax.objectives import loss

BUCKETS = 10


def corrupt(
  batch: batch_lib.Batch, keys: Key[Array, ' b'], path: path_lib.Path
) -> path_lib.Noised:
  """Noises every image slot at a level of its own, at most its `noise_cap`.

  Every row draws from its own key, so that its noise does not depend on which
  micro-batch or device it is part of.
  """

  def row(key, images, cap):
    for_level, for_noise = jax.random.split(key)
    t = times.draw(for_level, cap, steps=path.steps)
    return t, jax.random.normal(for_noise, images.shape, jnp.float32)

  t, epsilon = jax.vmap(row)(keys, batch.images, batch.noise_cap)
  return path.corrupt(batch.images.astype(jnp.float32), epsilon, t)


def squared_error(
  predicted: Float[Array, 'b i h w c'],
  noised: path_lib.Noised,
  batch: batch_lib.Batch,
  target: path_lib.Target,
) -> dict[str, loss.Ratio]:
  """Mean squared error per picture: `loss_image`, and the same in ten noise buckets.

  Bucket `j` holds the levels `j / 10 < t <= (j + 1) / 10`. With `epsilon` as the target
  this is L_DDPM (Transfusion, eq. 2; Ho et al., 2020, eq. 14).
  """
  wanted = {'epsilon': noised.epsilon, 'v': noised.v, 'x0': noised.x0}[target]
  error = jnp.mean(jnp.square(predicted - wanted), axis=(-3, -2, -1))
  # Less than a level of the path: a product that rounds up stays in its bucket.
  bucket = jnp.ceil(noised.t * BUCKETS - 1e-4).astype(jnp.int32) - 1
  ratios = {'loss_image': loss.weighted_sum(error, batch.image_weight)}
  for j in range(BUCKETS):
    here = jnp.where(bucket == j, batch.image_weight, 0.0)
    ratios[f'loss_image_{j}'] = loss.weighted_sum(error, here)
  return ratios
