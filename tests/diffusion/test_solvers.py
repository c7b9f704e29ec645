"""Solvers on a Gaussian, whose denoiser and whose solutions are known exactly.

For x_0 ~ N(m, d^2):  E[x_0 | x_t] = m + a d^2 (x_t - a m) / (a^2 d^2 + g^2), and the
probability flow carries x_T to x_0 = m + d (x_T - a_T m) / sqrt(a_T^2 d^2 + g_T^2).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from transfusion_jax.diffusion import path as path_lib
from transfusion_jax.diffusion import solvers, times

PATH = path_lib.Path(steps=1000)
MEAN, DEVIATION = 0.7, 0.5


def exact(x, t):
  alpha, sigma = PATH.alpha(t), PATH.sigma(t)
  gain = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
  return MEAN + gain * (x - alpha * MEAN)


@functools.partial(jax.jit, static_argnames=('count', 'kind', 'clip'))
def solve(noise, keys, *, count, kind, clip=0.0):
  levels = times.strided(count, steps=1000)
  return solvers.solve(
    exact, noise, keys, path=PATH, levels=levels, kind=kind, clip=clip
  )


def noise(count, seed=0):
  return (
    jax.random.normal(jax.random.key(seed), (count, 4, 4, 3)),
    jax.random.split(jax.random.key(seed + 1), count),
  )


def test_ddim_follows_the_flow_with_an_error_of_order_one():
  x, keys = noise(4)
  one = jnp.ones(())
  alpha, sigma = float(PATH.alpha(one)), float(PATH.sigma(one))
  spread = np.sqrt(alpha**2 * DEVIATION**2 + sigma**2)
  flow = MEAN + DEVIATION * (np.asarray(x) - alpha * MEAN) / spread
  errors = [
    float(np.abs(np.asarray(solve(x, keys, count=count, kind='ddim')) - flow).mean())
    for count in (10, 20, 40, 80)
  ]
  ratios = np.array(errors[:-1]) / np.array(errors[1:])
  assert (ratios > 1.6).all(), (errors, ratios)
  assert (ratios < 2.5).all(), (errors, ratios)
  assert errors[-1] < 0.02


def test_ddim_does_not_use_its_keys():
  x, keys = noise(2)
  first = solve(x, keys, count=10, kind='ddim')
  np.testing.assert_array_equal(first, solve(x, keys[::-1], count=10, kind='ddim'))


def test_ddpm_reaches_the_mean_and_the_deviation():
  x, keys = noise(600)
  drawn = np.asarray(solve(x, keys, count=250, kind='ddpm'))
  count = drawn.size
  assert abs(drawn.mean() - MEAN) < 5 * DEVIATION / np.sqrt(count)
  assert abs(drawn.std() - DEVIATION) < 0.01
  # Ancestral noise, unlike the flow, forgets where it began.
  assert abs(np.corrcoef(drawn.ravel(), np.asarray(x).ravel())[0, 1]) < 0.03


def test_ddpm_in_one_step_gives_the_prediction():
  x, keys = noise(3)
  found = solve(x, keys, count=1, kind='ddpm')
  np.testing.assert_allclose(found, exact(x, jnp.ones(())), atol=1e-6)


def test_a_picture_does_not_depend_on_its_batch():
  x, keys = noise(3)
  together = solve(x, keys, count=10, kind='ddpm')
  alone = solve(x[1:2], keys[1:2], count=10, kind='ddpm')
  np.testing.assert_allclose(together[1:2], alone, atol=1e-6)
  assert not np.allclose(together[0], together[1])


def test_predicted_data_is_clipped():
  x, keys = noise(3)
  found = np.asarray(solve(x, keys, count=10, kind='ddpm', clip=0.1))
  assert np.abs(found).max() <= 0.1 + 1e-6
  assert (found > 0.1 - 1e-6).mean() > 0.3  # the mean is beyond the bound
