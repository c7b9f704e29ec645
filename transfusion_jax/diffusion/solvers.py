r"""Solvers: from pure noise to data, given a function that predicts the clean data.

A step goes from level t to a lower level s. With a = alpha, g = sigma of both levels,

    DDIM (Song et al., 2021, eq. 12, eta = 0):
      x_s = a_s x_0 + g_s eps,   eps = (x_t - a_t x_0) / g_t                         (1)

    DDPM (Ho et al., 2020, eqs. 6 and 7, between any two levels):
      a_ts = a_t / a_s,   g_ts^2 = g_t^2 - a_ts^2 g_s^2                              (2)
      x_s ~ N((a_ts g_s^2 x_t + a_s g_ts^2 x_0) / g_t^2,   g_ts^2 g_s^2 / g_t^2)     (3)
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from transfusion_jax.diffusion import path as path_lib

Kind = Literal['ddpm', 'ddim']
Denoiser = Callable[
  [Float[Array, 'b h w c'], Float[Array, '']], Float[Array, 'b h w c']
]


def solve(
  denoise: Denoiser,
  noise: Float[Array, 'b h w c'],
  keys: Key[Array, ' b'],
  *,
  path: path_lib.Path,
  levels: np.ndarray,
  kind: Kind,
  clip: float,
) -> Float[Array, 'b h w c']:
  """Walks down `levels` from pure noise to a clean picture.

  Args:
    denoise: from x_t and a level t to the predicted clean data x_0.
    noise: x_T.
    keys: one random key per picture, so that a picture does not depend on its batch.
    path: alpha and sigma.
    levels: from 1 down to 0, as `times.strided` makes them.
    kind: `ddpm` (ancestral) or `ddim` (deterministic).
    clip: predicted data is kept within +-clip, since dividing by alpha near t = 1
      enlarges errors by up to 2e4; 0 leaves it as it is.
  """
  advance = {'ddpm': _ddpm, 'ddim': _ddim}[kind]

  def body(x, step):
    t, s, index = step
    x0 = denoise(x, t)
    x0 = jnp.clip(x0, -clip, clip) if clip else x0
    fresh = jax.vmap(
      lambda key: jax.random.normal(jax.random.fold_in(key, index), x.shape[1:])
    )(keys)
    return advance(
      x, x0, fresh, path.alpha(t), path.sigma(t), path.alpha(s), path.sigma(s)
    ), None

  steps = (
    jnp.asarray(levels[:-1]),
    jnp.asarray(levels[1:]),
    jnp.arange(len(levels) - 1),
  )
  return jax.lax.scan(body, noise, steps)[0]


def _ddim(x, x0, fresh, alpha_t, sigma_t, alpha_s, sigma_s):
  del fresh
  return alpha_s * x0 + sigma_s * (x - alpha_t * x0) / sigma_t


def _ddpm(x, x0, fresh, alpha_t, sigma_t, alpha_s, sigma_s):
  alpha_ts = alpha_t / alpha_s
  variance_ts = sigma_t**2 - alpha_ts**2 * sigma_s**2
  mean = (alpha_ts * sigma_s**2 * x + alpha_s * variance_ts * x0) / sigma_t**2
  return mean + jnp.sqrt(variance_ts) * sigma_s / sigma_t * fresh
