"""Distances between two sets of images, from their features alone.

The Fréchet distance (Heusel et al., 2017) takes each set for a Gaussian and is

  |m - n|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2))

for means m and n and covariances A and B. The kernel distance (Binkowski et al., 2018)
takes them for nothing, and its expectation does not depend on how many pictures there
are: it is the squared maximum mean discrepancy under the kernel (x y / d + 1)^3,
without bias, over random subsets. All arithmetic is in float64.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Float64, Int

from transfusion_jax.core import log


@dataclasses.dataclass(frozen=True, eq=False)
class Gaussian:
  """Statistics of a set for the Fréchet distance.

  Attributes:
    mean: of every feature.
    root: the covariance is `root.T @ root`, without bias.
  """

  mean: Float64[np.ndarray, ' d']
  root: Float64[np.ndarray, 'r d']


@dataclasses.dataclass(frozen=True)
class KernelDistance:
  """Mean and standard deviation over subsets."""

  mean: float
  deviation: float


def gaussian(features: Float[np.ndarray, 'n d']) -> Gaussian:
  """Mean and covariance of features.

  The root of the covariance is the triangle of a QR decomposition: squares, which
  would lose half of the digits, are never formed.

  Raises:
    ValueError: there are fewer than two pictures, or features are not finite.
  """
  x = _checked(features)
  count, width = x.shape
  if count <= width:
    log.once(
      f'the Fréchet distance of {count} pictures is biased upwards: there are no more '
      f'of them than features ({width}); compare it at the same number of pictures only'
    )
  mean = x.mean(axis=0)
  root = np.linalg.qr(x - mean, mode='r') / np.sqrt(count - 1)
  return Gaussian(mean, root)


def distance(x: Gaussian, y: Gaussian) -> float:
  """Fréchet distance; 0 for equal sets.

  With A = R^T R and B = S^T S, the last trace is the sum of the singular values of
  R S^T, whatever the ranks: no square root of a matrix that is not symmetric is taken.
  """
  shift = np.sum(np.square(x.mean - y.mean))
  spread = np.sum(np.square(x.root)) + np.sum(np.square(y.root))
  shared = np.linalg.svd(x.root @ y.root.T, compute_uv=False).sum()
  return float(shift + spread - 2 * shared)


def kernel_distance(
  x: Float[np.ndarray, 'n d'],
  y: Float[np.ndarray, 'm d'],
  *,
  subsets: int,
  size: int,
  seed: int,
) -> KernelDistance:
  """Squared maximum mean discrepancy of random subsets; about 0 for equal sets.

  Args:
    x: features of one set.
    y: features of the other.
    subsets: how many; each takes pictures of either set without repetition.
    size: pictures of a subset; smaller sets are taken whole.
    seed: of the choice.

  Raises:
    ValueError: as `gaussian`.
  """
  x, y = _checked(x), _checked(y)
  size = min(size, len(x), len(y))
  random = np.random.default_rng(seed)
  found = [
    discrepancy(_some(random, x, size), _some(random, y, size)) for _ in range(subsets)
  ]
  return KernelDistance(float(np.mean(found)), float(np.std(found)))


def discrepancy(x: Float64[np.ndarray, 'n d'], y: Float64[np.ndarray, 'm d']) -> float:
  """The unbiased estimate of one pair of sets; it may be below 0."""

  def among(z):
    kernel, count = _kernel(z, z), len(z)
    return (kernel.sum() - np.trace(kernel)) / (count * (count - 1))

  return float(among(x) + among(y) - 2 * _kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return (x @ y.T / x.shape[1] + 1) ** 3


def _some(random: np.random.Generator, x: np.ndarray, size: int) -> np.ndarray:
  chosen: Int[np.ndarray, ' n'] = random.choice(len(x), size, replace=False)
  return x[chosen]


def _checked(features: np.ndarray) -> Float64[np.ndarray, 'n d']:
  x = np.asarray(features, np.float64)
  if len(x) < 2:
    raise ValueError(
      f'expected features of at least 2 pictures, found {len(x)}; a distance of sets '
      'means something from some thousand pictures on'
    )
  if not np.isfinite(x).all():
    raise ValueError(
      'expected finite features, found others; look at the pictures and the weights'
    )
  return x
