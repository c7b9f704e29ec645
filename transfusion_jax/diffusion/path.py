r"""The path from data to noise, and what a network may be asked to predict on it.

    x_t = alpha(t) x_0 + sigma(t) eps,    t = 0: clean,  t = 1: pure noise           (1)

The cosine path of Nichol and Dhariwal (2021, eq. 17), with T = 1000 steps, is

    f(k) = cos((k / T + s) / (1 + s) * pi / 2)^2,   s = 0.008                        (2)
    beta_k = min(1 - f(k) / f(k - 1), 0.999),   abar_k = prod_{j <= k} (1 - beta_j)  (3)
    alpha = sqrt(abar_k),   sigma = sqrt(1 - abar_k),   k = round(t T)               (4)

Since alpha^2 + sigma^2 = 1, the velocity of Salimans and Ho (2022) is

    v = alpha eps - sigma x_0, x_0 = alpha x_t - sigma v, eps = sigma x_t + alpha v  (5)
"""

import dataclasses
import functools
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from transfusion_jax.core import tree

Target = Literal['epsilon', 'v', 'x0']


@tree.struct
class Noised:
  """Corrupted data with every target a network may be trained on.

  Attributes:
    x: x_t of eq. (1).
    t: noise level of each picture, in [0, 1].
    epsilon: the noise.
    v: eq. (5).
    x0: the clean data.
  """

  x: Float[Array, '*b h w c']
  t: Float[Array, '*b']
  epsilon: Float[Array, '*b h w c']
  v: Float[Array, '*b h w c']
  x0: Float[Array, '*b h w c']


@dataclasses.dataclass(frozen=True)
class PathConfig:
  """Choice of the path, and the number of steps that divide it.

  Attributes:
    kind: `cosine`, the only path so far.
    steps: T of eq. (2); noise levels are multiples of 1 / T.
  """

  kind: Literal['cosine']
  steps: int


@dataclasses.dataclass(frozen=True)
class Path:
  """Eq. (1) with the tables of alpha and sigma at the levels 0, 1/T, ..., 1."""

  steps: int

  @functools.cached_property
  def _tables(self) -> tuple[np.ndarray, np.ndarray]:
    k = np.arange(self.steps + 1, dtype=np.float64) / self.steps
    f = np.cos((k + 0.008) / 1.008 * np.pi / 2) ** 2
    beta = np.minimum(1 - f[1:] / f[:-1], 0.999)
    abar = np.concatenate([[1.0], np.cumprod(1 - beta)])
    return np.sqrt(abar).astype(np.float32), np.sqrt(1 - abar).astype(np.float32)

  def alpha(self, t: Float[Array, '*b']) -> Float[Array, '*b']:
    """Share of the data at noise level `t`."""
    return jnp.asarray(self._tables[0])[self._index(t)]

  def sigma(self, t: Float[Array, '*b']) -> Float[Array, '*b']:
    """Share of the noise at noise level `t`."""
    return jnp.asarray(self._tables[1])[self._index(t)]

  def corrupt(
    self,
    x0: Float[Array, '*b h w c'],
    epsilon: Float[Array, '*b h w c'],
    t: Float[Array, '*b'],
  ) -> Noised:
    """Eq. (1), one noise level per picture, before the picture is cut into patches."""
    alpha, sigma = _per_picture(self.alpha(t)), _per_picture(self.sigma(t))
    x = alpha * x0 + sigma * epsilon
    return Noised(x=x, t=t, epsilon=epsilon, v=alpha * epsilon - sigma * x0, x0=x0)

  def convert(
    self,
    prediction: Float[Array, '*b h w c'],
    x: Float[Array, '*b h w c'],
    t: Float[Array, '*b'],
    source: Target,
    target: Target,
  ) -> Float[Array, '*b h w c']:
    """Converts a prediction of `source` to one of `target` at x_t = `x`, eqs. (1), (5).

    At t = 0 the noise cannot be told from the data; callers do not ask.
    """
    if source == target:
      return prediction
    alpha, sigma = _per_picture(self.alpha(t)), _per_picture(self.sigma(t))
    if source == 'epsilon':
      x0, epsilon = (x - sigma * prediction) / alpha, prediction
    elif source == 'v':
      x0, epsilon = alpha * x - sigma * prediction, sigma * x + alpha * prediction
    else:
      x0, epsilon = prediction, (x - alpha * prediction) / sigma
    if target == 'epsilon':
      return epsilon
    return x0 if target == 'x0' else alpha * epsilon - sigma * x0

  def _index(self, t):
    return jnp.round(t * self.steps).astype(jnp.int32)


def _per_picture(level: Float[Array, '*b']) -> Float[Array, '*b 1 1 1']:
  return level[..., None, None, None]
