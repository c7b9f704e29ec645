"""Noise levels: drawn in training, strided in sampling."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray


def draw(
  key: PRNGKeyArray, cap: Float[Array, '*b'], *, steps: int
) -> Float[Array, '*b']:
  """Noise levels uniform over 1/T, 2/T, ..., cap; 0 where the cap is 0.

  Args:
    key: one random key.
    cap: largest level of each picture, in [0, 1]; 0 marks a clean context picture.
    steps: T, the number of levels (Transfusion, section 4.1: T = 1000).
  """
  levels = jnp.round(cap * steps)
  draws = 1 + jnp.floor(jax.random.uniform(key, cap.shape) * levels)
  return jnp.minimum(draws, levels) / steps


def strided(count: int, *, steps: int, begin: float = 1.0) -> np.ndarray:
  """The `count + 1` levels of a sampler, from `begin` down to 0, evenly spread.

  Args:
    count: sampling steps.
    steps: T, the number of levels that the path has.
    begin: the highest level.

  Raises:
    ValueError: more sampling steps than the path has levels, or fewer than one.
  """
  most = round(begin * steps)
  if not 1 <= count <= most:
    raise ValueError(
      f'expected between 1 and {most} sampling steps, found {count}; change --steps'
    )
  return (np.round(np.linspace(most, 0, count + 1)) / steps).astype(np.float32)
