"""Solvers on a Gaussian, whose denoiser and whose solutions are known exactly.

For x_0 ~ N(m, d^2):  E[x_0 | x_t] = m + a d^2 (x_t - a m) / (a^2 d^2 + g^2), and the
probability flow carries x_T to x_0 = m + d (x_T - a_T m) / sqrt(a_T^2 d^2 + g_T^2).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transfusion_jax.diffusion import path as path_lib
from transfusion_jax.diffusion import solvers, times

PATH = path_lib.Path(steps=1000)
MEAN, DEVIATION = 0.7, 0.5


def exact(x, t):
  alpha, sigma = PATH.alpha(t), PATH.sigma(t)
  gain = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
  return MEAN + gain * (x - alpha * MEAN)


def denoise(x, t, held):
  """The exact prediction; counts how often it was asked."""
  return exact(x, t), held + 1


@functools.partial(jax.jit, static_argnames=('count', 'kind', 'begin'))
def solve(x, keys, *, count, kind, begin=1.0):
  levels = times.strided(count, steps=1000, begin=begin)
  zero = jnp.zeros((), jnp.int32)
  return solvers.solve(denoise, x, keys, zero, path=PATH, levels=levels, kind=kind)


def drawn(x, keys, **settings):
  return np.asarray(solve(x, keys, **settings)[0])


def flow(x, t, s):
  """Where the probability flow carries x_t."""
  (alpha_t, spread_t), (alpha_s, spread_s) = (
    (float(a), float(np.sqrt(a**2 * DEVIATION**2 + g**2)))
    for a, g in ((PATH.alpha(u), PATH.sigma(u)) for u in map(jnp.asarray, (t, s)))
  )
  return alpha_s * MEAN + spread_s / spread_t * (np.asarray(x) - alpha_t * MEAN)


def noise(count, seed=0):
  return (
    jax.random.normal(jax.random.key(seed), (count, 4, 4, 3)),
    jax.random.split(jax.random.key(seed + 1), count),
  )


def errors(kind, counts, first=0.9, last=0.1):
  """Mean error of the flow between two levels, where nothing is singular."""
  x, keys = noise(4)
  found = []
  for count in counts:
    levels = np.round(np.linspace(1000 * first, 1000 * last, count + 1)) / 1000

    walk = functools.partial(
      solvers.solve, path=PATH, levels=levels.astype(np.float32), kind=kind
    )
    reached, _ = jax.jit(functools.partial(walk, denoise))(x, keys, 0)
    wanted = flow(x, first, last)
    found.append(float(np.abs(np.asarray(reached) - wanted).mean()))
  return np.array(found)


@pytest.mark.parametrize(
  ('kind', 'order'), [('ddim', 1), ('euler', 1), ('dpm2m', 2), ('heun', 2)]
)
def test_the_order_of_every_solver(kind, order):
  """Halving the steps' length divides the error by 2 to the order."""
  found = errors(kind, (20, 40, 80))
  slopes = np.log2(found[:-1] / found[1:])
  assert (np.abs(slopes - order) < 0.35).all(), (found, slopes)


def test_solvers_of_second_order_are_nearer_with_as_many_evaluations():
  first, heun, multistep = (
    errors(*settings)[0]
    for settings in (('ddim', (20,)), ('heun', (10,)), ('dpm2m', (20,)))
  )
  assert heun < first / 3
  assert multistep < first / 3


@pytest.mark.parametrize('kind', ['ddim', 'euler', 'dpm2m', 'heun'])
def test_from_pure_noise_to_a_clean_picture(kind):
  x, keys = noise(4)
  found = drawn(x, keys, count=100, kind=kind)
  assert np.abs(found - flow(x, 1.0, 0.0)).mean() < 0.02


def test_euler_is_ddim_written_otherwise():
  x, keys = noise(3)
  np.testing.assert_allclose(
    drawn(x, keys, count=10, kind='euler'),
    drawn(x, keys, count=10, kind='ddim'),
    atol=1e-5,
  )


@pytest.mark.parametrize('kind', ['ddpm', 'ddim', 'dpm2m', 'euler', 'heun'])
def test_what_is_held_goes_through_every_evaluation(kind):
  x, keys = noise(2)
  _, asked = solve(x, keys, count=7, kind=kind)
  assert int(asked) == solvers.evaluations(kind, 7)


def test_flows_do_not_use_their_keys():
  x, keys = noise(2)
  for kind in ('ddim', 'dpm2m', 'euler', 'heun'):
    first = drawn(x, keys, count=5, kind=kind)
    np.testing.assert_array_equal(first, drawn(x, keys[::-1], count=5, kind=kind))


def test_ddpm_reaches_the_mean_and_the_deviation():
  x, keys = noise(600)
  found = drawn(x, keys, count=250, kind='ddpm')
  count = found.size
  assert abs(found.mean() - MEAN) < 5 * DEVIATION / np.sqrt(count)
  assert abs(found.std() - DEVIATION) < 0.01
  # Ancestral noise, unlike the flow, forgets where it began.
  assert abs(np.corrcoef(found.ravel(), np.asarray(x).ravel())[0, 1]) < 0.03


@pytest.mark.parametrize('kind', ['ddpm', 'ddim', 'dpm2m', 'euler', 'heun'])
def test_one_step_gives_the_prediction(kind):
  x, keys = noise(3)
  found = drawn(x, keys, count=1, kind=kind)
  np.testing.assert_allclose(found, exact(x, jnp.ones(())), atol=2e-4)


@pytest.mark.parametrize('kind', ['ddpm', 'ddim', 'dpm2m', 'euler', 'heun'])
def test_the_last_prediction_is_the_picture(kind):
  """What denoising trajectories end with."""
  x, keys = noise(2)
  levels = times.strided(4, steps=1000)

  def denoise(x, t, held):
    del held
    return exact(x, t), exact(x, t)

  found, last = solvers.solve(denoise, x, keys, x, path=PATH, levels=levels, kind=kind)
  np.testing.assert_allclose(found, last, atol=1e-5)
  assert not np.allclose(found, exact(x, jnp.ones(())), atol=1e-2)


def test_a_picture_does_not_depend_on_its_batch():
  x, keys = noise(3)
  together = drawn(x, keys, count=10, kind='ddpm')
  alone = drawn(x[1:2], keys[1:2], count=10, kind='ddpm')
  np.testing.assert_allclose(together[1:2], alone, atol=1e-6)
  assert not np.allclose(together[0], together[1])
