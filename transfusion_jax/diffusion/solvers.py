r"""Solvers: from noise to data, given a function that predicts the clean data.

A step goes from level t to a lower level s. With a = alpha, g = sigma of both levels
and eps = (x_t - a_t x_0) / g_t, the noise that a prediction x_0 implies,

    DDIM (Song et al., 2021, eq. 12, eta = 0):
      x_s = a_s x_0 + g_s eps                                                      (1)

    DDPM (Ho et al., 2020, eqs. 6 and 7, between any two levels):
      a_ts = a_t / a_s,   g_ts^2 = g_t^2 - a_ts^2 g_s^2                            (2)
      x_s ~ N((a_ts g_s^2 x_t + a_s g_ts^2 x_0) / g_t^2,   g_ts^2 g_s^2 / g_t^2)   (3)

    DPM-Solver++(2M) (Lu et al., 2022, algorithm 2), l = log(a / g), h = l_s - l_t,
    r = (l_t - l_before) / h, x_before the prediction of the step before:
      D = x_0 + (x_0 - x_before) / (2 r)
      x_s = g_s / g_t x_t - a_s (exp(-h) - 1) D                                    (4)

Every such path is a straight line in disguise: z = x / (a + g) and tau = g / (a + g)
obey z = (1 - tau) x_0 + tau eps, whose velocity is u = eps - x_0. On it

    Euler:  z_s = z_t + (tau_s - tau_t) u_t                                        (5)
    Heun:   z_s = z_t + (tau_s - tau_t) (u_t + u_s) / 2, u_s at the end of (5)     (6)

(5) is (1) written otherwise. The last step, to the clean picture, is of first order in
(4) and (6): nothing can be told of the noise of a picture that has none.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from transfusion_jax.diffusion import path as path_lib

Kind = Literal['ddpm', 'ddim', 'dpm2m', 'euler', 'heun']
Images = Float[Array, 'b h w c']
Denoiser = Callable[[Images, Float[Array, ''], Any], tuple[Images, Any]]


def evaluations(kind: Kind, steps: int) -> int:
  """Predictions that a solver asks for."""
  return 2 * steps - 1 if kind == 'heun' else steps


def solve(
  denoise: Denoiser,
  x: Images,
  keys: Key[Array, ' b'],
  held: Any,
  *,
  path: path_lib.Path,
  levels: np.ndarray,
  kind: Kind,
) -> tuple[Images, Any]:
  """Walks down `levels` from noise to a clean picture.

  Args:
    denoise: from x_t, a level t and what it holds to the predicted clean data x_0 and
      what it holds next, such as a cache that it writes to.
    x: pictures at the first level.
    keys: one random key per picture, so that a picture does not depend on its batch.
    held: what `denoise` is first given.
    path: alpha and sigma.
    levels: from the first level down to 0, as `times.strided` makes them.
    kind: which of the above.

  Returns:
    The pictures, and what `denoise` held at last.
  """

  def body(carry, step):
    x, held, before = carry
    r, t, s, index = step
    x0, held = denoise(x, t, held)
    if kind == 'ddpm':
      x = _ddpm(x, x0, _noise(keys, index, x), path, t, s)
    elif kind == 'dpm2m':
      x = _dpm2m(x, x0, before, path, r, t, s, index)
    elif kind == 'heun':
      x, held = _heun(denoise, x, x0, held, path, t, s)
    else:
      x = {'ddim': _ddim, 'euler': _euler}[kind](x, x0, path, t, s)
    return (x, held, x0), None

  steps = len(levels) - 1
  earlier = np.concatenate([levels[:1], levels[:-2]])
  scanned = [jnp.asarray(each) for each in (earlier, levels[:-1], levels[1:])]
  carry = (x, held, jnp.zeros_like(x))
  carry, _ = jax.lax.scan(body, carry, (*scanned, jnp.arange(steps)))
  return carry[0], carry[1]


def _noise(keys, index, x):
  draw = jax.vmap(
    lambda key: jax.random.normal(jax.random.fold_in(key, index), x.shape[1:])
  )
  return draw(keys)


def _ddim(x, x0, path, t, s):
  epsilon = (x - path.alpha(t) * x0) / path.sigma(t)
  return path.alpha(s) * x0 + path.sigma(s) * epsilon


def _ddpm(x, x0, fresh, path, t, s):
  alpha_t, sigma_t, alpha_s, sigma_s = (
    *(path.alpha(t), path.sigma(t)),
    *(path.alpha(s), path.sigma(s)),
  )
  alpha_ts = alpha_t / alpha_s
  variance_ts = sigma_t**2 - alpha_ts**2 * sigma_s**2
  mean = (alpha_ts * sigma_s**2 * x + alpha_s * variance_ts * x0) / sigma_t**2
  return mean + jnp.sqrt(variance_ts) * sigma_s / sigma_t * fresh


def _dpm2m(x, x0, before, path, r, t, s, index):
  def log_ratio(level):
    return jnp.log(path.alpha(level)) - jnp.log(jnp.maximum(path.sigma(level), 1e-20))

  h = log_ratio(s) - log_ratio(t)
  first = (index == 0) | (s == 0)
  ratio = jnp.where(first, 1.0, (log_ratio(t) - log_ratio(r)) / h)
  slope = jnp.where(first, 0.0, 0.5 / ratio)
  data = x0 + slope * (x0 - before)
  shrink = path.sigma(s) / path.sigma(t)
  # exp(-h) = (g_s / g_t) (a_t / a_s), without the infinity of log g_s at the end
  return (
    shrink * x + path.alpha(s) * (1 - shrink * path.alpha(t) / path.alpha(s)) * data
  )


def _straight(path, level):
  """`a + g` and tau."""
  whole = path.alpha(level) + path.sigma(level)
  return whole, path.sigma(level) / whole


def _velocity(x, x0, path, t):
  return (x - path.alpha(t) * x0) / path.sigma(t) - x0


def _euler(x, x0, path, t, s):
  return _along(x, _velocity(x, x0, path, t), path, t, s)


def _along(x, velocity, path, t, s):
  (whole_t, tau_t), (whole_s, tau_s) = _straight(path, t), _straight(path, s)
  return (x / whole_t + (tau_s - tau_t) * velocity) * whole_s


def _heun(denoise, x, x0, held, path, t, s):
  first = _velocity(x, x0, path, t)
  ahead = _along(x, first, path, t, s)

  def corrected(held):
    x0, after = denoise(ahead, s, held)
    both = (first + _velocity(ahead, x0, path, s)) / 2
    return _along(x, both, path, t, s), after

  return jax.lax.cond(s > 0, corrected, lambda held: (ahead, held), held)
