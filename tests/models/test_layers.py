"""Products of the last axis, on one device and on several."""

import jax
import numpy as np
import pytest

from transfusion_jax.core import sharding
from transfusion_jax.models import layers
from transfusion_jax.training import mesh


def shapes(function, *arguments):
  """Of the left factors of a traced function's products."""
  jaxpr = jax.make_jaxpr(function)(*arguments)
  found = [each for each in jaxpr.eqns if each.primitive.name == 'dot_general']
  return [each.invars[0].aval.shape for each in found]


@pytest.mark.parametrize('leading', [(), (3,), (2, 5), (2, 3, 4)])
def test_the_last_axis_is_multiplied(leading):
  x = jax.random.normal(jax.random.key(0), (*leading, 6))
  matrix = jax.random.normal(jax.random.key(1), (6, 7))
  expected = np.tensordot(x, matrix, axes=1)
  np.testing.assert_allclose(layers.project(x, matrix), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ('devices', 'expected'),
  [((1, 1, 1, 1), (8 * 6, 4)), ((2, 2, 1, 2), (8, 6, 4)), ((2, 1, 2, 1), (8, 6, 4))],
)
def test_rows_and_positions_are_one_axis_on_one_device_alone(devices, expected):
  count = int(np.prod(devices))
  made = mesh.make(mesh.MeshConfig(*devices), jax.devices()[:count])
  x, matrix = np.ones((8, 6, 4), np.float32), np.ones((4, 3), np.float32)
  traced = sharding.on(made, layers.project)
  assert shapes(traced, x, matrix) == [expected]
  assert shapes(layers.project, x, matrix) == [(8 * 6, 4)]
