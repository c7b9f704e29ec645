"""The cosine path: reference values, and every target from every other."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transfusion_jax.diffusion import path as path_lib

PATH = path_lib.Path(steps=1000)
TARGETS = ('epsilon', 'v', 'x0')


def test_reference_values():
  """Nichol and Dhariwal (2021): the offset 0.008 and the clip of beta at 0.999."""
  t = jnp.array([0.0, 0.001, 0.5, 1.0])
  abar = np.asarray(PATH.alpha(t), np.float64) ** 2
  assert abar[0] == 1.0
  np.testing.assert_allclose(abar[1], 0.99996, atol=5e-6)
  np.testing.assert_allclose(abar[2], 0.494, atol=5e-4)
  np.testing.assert_allclose(abar[3], 2.4e-9, rtol=0.02)
  assert float(PATH.sigma(t)[0]) == 0.0


def test_alpha_falls_sigma_rises_and_their_squares_add_up_to_one():
  t = jnp.arange(1001, dtype=jnp.float32) / 1000.0
  alpha, sigma = (np.asarray(f(t), np.float64) for f in (PATH.alpha, PATH.sigma))
  np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-6)
  assert (np.diff(alpha) < 0).all()
  assert (np.diff(sigma) >= 0).all()


def test_levels_are_found_although_floats_are_inexact():
  k = np.arange(1001)
  exact = np.asarray(PATH.alpha(jnp.asarray((k / 1000).astype(np.float32))))
  nudged = np.nextafter((k / 1000).astype(np.float32), np.float32(2.0))
  np.testing.assert_array_equal(PATH.alpha(jnp.asarray(nudged)), exact)
  assert len(np.unique(exact)) == 1001


def example(shape=(3, 2), levels=(0.001, 0.3, 0.5, 0.77, 0.95, 0.99)):
  keys = jax.random.split(jax.random.key(0))
  x0 = jax.random.normal(keys[0], (*shape, 2, 2, 3))
  epsilon = jax.random.normal(keys[1], x0.shape)
  t = jnp.asarray(levels, jnp.float32).reshape(shape)
  return PATH.corrupt(x0, epsilon, t)


def test_corrupt_gives_every_target_by_its_formula():
  noised = example()
  alpha = np.asarray(PATH.alpha(noised.t))[..., None, None, None]
  sigma = np.asarray(PATH.sigma(noised.t))[..., None, None, None]
  x0, epsilon = np.asarray(noised.x0), np.asarray(noised.epsilon)
  np.testing.assert_allclose(noised.x, alpha * x0 + sigma * epsilon, atol=1e-6)
  np.testing.assert_allclose(noised.v, alpha * epsilon - sigma * x0, atol=1e-6)


def test_clean_is_clean():
  x0 = example().x0
  noised = PATH.corrupt(x0, jnp.full(x0.shape, 1e6), jnp.zeros((3, 2)))
  np.testing.assert_array_equal(noised.x, x0)


@pytest.mark.parametrize(('source', 'target'), [*itertools.product(TARGETS, TARGETS)])
def test_convert_is_right_and_its_own_inverse(source, target):
  noised = example()
  wanted = {'epsilon': noised.epsilon, 'v': noised.v, 'x0': noised.x0}
  there = PATH.convert(wanted[source], noised.x, noised.t, source, target)
  back = PATH.convert(there, noised.x, noised.t, target, source)
  # Dividing by alpha at t = 0.99, or by sigma at t = 0.001, enlarges rounding 70 times.
  np.testing.assert_allclose(there, wanted[target], atol=1e-4)
  np.testing.assert_allclose(back, wanted[source], atol=1e-3)


def test_convert_keeps_its_word_for_any_prediction():
  """Whatever is predicted, x_t stays alpha x_0 + sigma eps."""
  noised = example()
  guess = jax.random.normal(jax.random.key(7), noised.x.shape)
  for source in TARGETS:
    x0 = PATH.convert(guess, noised.x, noised.t, source, 'x0')
    epsilon = PATH.convert(guess, noised.x, noised.t, source, 'epsilon')
    again = PATH.corrupt(x0, epsilon, noised.t)
    np.testing.assert_allclose(again.x, noised.x, rtol=1e-4, atol=1e-4)
