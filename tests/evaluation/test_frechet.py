"""Distances of sets against closed forms and a slow reference."""

import itertools

import numpy as np
import pytest

from transfusion_jax.core import log
from transfusion_jax.evaluation import frechet


def features(count: int, width: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
  return scale * np.random.default_rng(seed).normal(size=(count, width))


def exactly(mean, covariance, count: int = 200, seed: int = 0) -> np.ndarray:
  """Features whose sample mean and covariance are these, but for rounding."""
  x = features(count, len(mean), seed)
  x -= x.mean(axis=0)
  whitened = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T)).T)
  return whitened @ np.linalg.cholesky(covariance).T + np.asarray(mean)


def between(x: np.ndarray, y: np.ndarray) -> float:
  return frechet.distance(frechet.gaussian(x), frechet.gaussian(y))


def test_gaussians_that_share_their_axes():
  deviations = np.array([0.5, 1.0, 2.0]), np.array([1.5, 1.0, 0.25])
  means = np.array([0.0, 1.0, -2.0]), np.array([1.0, 1.0, 2.0])
  x, y = (
    exactly(mean, np.diag(deviation**2), seed=seed)
    for seed, (mean, deviation) in enumerate(zip(means, deviations, strict=True))
  )
  wanted = np.sum((means[0] - means[1]) ** 2)
  wanted += np.sum((deviations[0] - deviations[1]) ** 2)
  np.testing.assert_allclose(between(x, y), wanted, rtol=1e-12)


def test_gaussians_that_are_turned_against_each_other():
  """Of two by two: tr((A B)^(1/2)) = (tr(A B) + 2 det(A B)^(1/2))^(1/2)."""
  a = np.array([[2.0, 0.9], [0.9, 1.0]])
  b = np.array([[1.0, -0.8], [-0.8, 3.0]])
  x, y = exactly([0.0, 0.0], a), exactly([3.0, 4.0], b, count=90, seed=1)
  root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
  wanted = 25 + np.trace(a) + np.trace(b) - 2 * root
  np.testing.assert_allclose(between(x, y), wanted, rtol=1e-12)


@pytest.mark.parametrize(('count', 'width'), [(50, 8), (8, 50), (2, 3)])
def test_a_set_and_its_like(count, width):
  """Fewer pictures than features as well, where covariances have no full rank."""
  x = features(count, width)
  np.testing.assert_allclose(between(x, x[::-1]), 0, atol=1e-12 * np.sum(x**2))
  np.testing.assert_allclose(between(x, x + 0.5), 0.25 * width, rtol=1e-9)
  np.testing.assert_allclose(between(x, features(count, width, 1)), between(
    features(count, width, 1), x), rtol=1e-12)  # fmt: skip


def test_large_means_do_not_drown_small_covariances():
  """Where squares of float32 features would be all that is left."""
  x = exactly([1e4, 1e4], 1e-4 * np.eye(2))
  y = exactly([1e4, 1e4], 4e-4 * np.eye(2), seed=1)
  np.testing.assert_allclose(between(x, y), 2 * 0.01**2, rtol=1e-6)


def slow(x: np.ndarray, y: np.ndarray) -> float:
  """The discrepancy, pair by pair."""

  def kernel(a, b):
    return (float(a @ b) / len(a) + 1) ** 3

  inside = [
    np.mean([kernel(a, b) for a, b in itertools.permutations(z, 2)]) for z in (x, y)
  ]
  return sum(inside) - 2 * np.mean([kernel(a, b) for a in x for b in y])


def test_discrepancy_equals_the_reference():
  x, y = features(6, 3), features(5, 3, 1, scale=2.0)
  np.testing.assert_allclose(frechet.discrepancy(x, y), slow(x, y), rtol=1e-12)


def test_the_kernel_distance_has_no_bias():
  """Of independent sets of one distribution it is about 0, however small they are."""
  x, y = features(4000, 4), features(4000, 4, 1)
  near = frechet.kernel_distance(x, y, subsets=400, size=8, seed=0)
  assert abs(near.mean) < 4 * near.deviation / np.sqrt(400)
  far = frechet.kernel_distance(x, 2 * y, subsets=400, size=8, seed=0)
  assert far.mean > 8 * near.deviation / np.sqrt(400)


def test_subsets_are_drawn_from_the_seed_and_small_sets_taken_whole():
  x, y = features(20, 3), features(9, 3, 1)
  first, again, other = (
    frechet.kernel_distance(x, y, subsets=5, size=4, seed=seed) for seed in (0, 0, 1)
  )
  assert first == again
  assert first != other
  whole = frechet.kernel_distance(x[:9], y, subsets=2, size=1000, seed=0)
  np.testing.assert_allclose(whole.mean, frechet.discrepancy(x[:9], y), rtol=1e-12)
  np.testing.assert_allclose(whole.deviation, 0, atol=1e-12)


@pytest.mark.parametrize('measure', [frechet.gaussian, lambda x: between(x, x)])
def test_too_few_pictures_and_numbers_that_are_none(measure):
  with pytest.raises(ValueError, match='at least 2 pictures, found 1'):
    measure(features(1, 3))
  with pytest.raises(ValueError, match='expected finite features'):
    measure(np.array([[0.0, np.nan], [1.0, 1.0]]))


def test_few_pictures_are_said_to_be_few(caplog, monkeypatch):
  monkeypatch.setattr(log.logger, 'propagate', True)
  with caplog.at_level('INFO', logger='transfusion_jax'):
    frechet.gaussian(features(31, 40))
    assert 'of 31 pictures is biased upwards' in caplog.text
    caplog.clear()
    frechet.gaussian(features(41, 40))
    assert not caplog.text
