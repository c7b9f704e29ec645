"""A small LPIPS network, and its weights as the lpips package stores them."""

import functools

import jax
import numpy as np

from transfusion_jax.core import tree
from transfusion_jax.models import module
from transfusion_jax.models.codecs import perceptual

WIDTHS = ((4, 3), (5,), (6, 2))


@functools.cache
def built():
  """A small network with every parameter in use."""
  plan = module.blueprint(lambda rngs: perceptual.Perceptual(rngs, WIDTHS))
  random = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: random.normal(size=leaf.shape).astype(np.float32), plan.shapes
  )
  params['weights'] = jax.tree.map(np.abs, params['weights'])
  params['scale'] = np.array([0.5, 0.6, 0.7], np.float32)
  return plan, params


def theirs(params) -> dict[str, np.ndarray]:
  """The same under the names and in the layout of the package's file."""
  flat = tree.flatten(params)
  found = {}
  for path, name in perceptual._names(WIDTHS).items():
    value = flat[path]
    if path[0] in ('shift', 'scale', 'weights'):
      value = value.reshape(1, -1, 1, 1)
    elif path[-1] == 'kernel':
      value = value.transpose(3, 2, 0, 1)
    found[name] = np.ascontiguousarray(value)
  return found
