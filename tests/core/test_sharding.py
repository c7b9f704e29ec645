"""What the compiler is told: the same values, divided as they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from transfusion_jax.core import axes, sharding
from transfusion_jax.training import mesh


def on_eight(function, *arguments):
  """The value and text of a function traced on a mesh of eight devices."""
  devices = mesh.make(mesh.MeshConfig(2, 2, 1, 2))
  arguments = jax.device_put(arguments, axes.replicated(devices))
  compiled = jax.jit(sharding.on(devices, function)).lower(*arguments).compile()
  return compiled(*arguments), compiled.as_text()


def test_gathering_casts_and_its_gradient_is_divided_again():
  w = jax.random.normal(jax.random.key(0), (8, 4))
  x = jax.random.normal(jax.random.key(1), (16, 8))

  def loss(w, x):
    whole = sharding.gathered(w, ('embed', 'mlp'), jnp.bfloat16)
    assert whole.dtype == jnp.bfloat16
    return jnp.sum(jnp.square(sharding.rows(x) @ whole.astype(jnp.float32)))

  expected = jax.value_and_grad(loss)(w, x)
  found, text = on_eight(jax.value_and_grad(loss), w, x)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-2, atol=0.3)
  assert found[1].dtype == jnp.float32
  assert found[1].sharding.spec == PartitionSpec('fsdp', 'tensor')
  assert 'all-' in text


def test_axes_that_divide_are_divided():
  x = jnp.ones((8, 6, 4))

  def where(*over):
    found, _ = on_eight(lambda x: sharding.divided(x + 1, *over), x)
    return found.sharding.shard_shape(x.shape)

  assert where(axes.ROWS, 'sequence', 'tensor') == (2, 6, 2)
  assert where(None, axes.ROWS, 'tensor') == (8, 6, 2)  # six positions, four parts


@pytest.mark.parametrize(('shape', 'own'), [((4, 6), (4, 3)), ((3, 5), (3, 5))])
def test_every_device_works_on_its_own_rows_and_columns(shape, own):
  """Sums are of all devices; columns that do not divide are whole."""
  x = jax.random.normal(jax.random.key(0), (8, 2, shape[0]))
  matrix = jax.random.normal(jax.random.key(1), shape)
  seen = []

  def work(rows, matrix, over):
    seen.append((rows['x'].shape, matrix.shape, over))
    y = rows['x'] @ matrix
    product = jnp.einsum('bte,btv->ev', rows['x'], y)
    return jax.lax.psum(jnp.sum(y, axis=2), over), (product,)

  def divided(x, matrix):
    return sharding.own_columns(work, {'x': x}, matrix)

  (total, (product,)), _ = on_eight(divided, x, matrix)
  assert seen == [((2, 2, shape[0]), own, () if own == shape else ('tensor',))]
  expected, (whole,) = work({'x': x}, matrix, ())
  np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(product, whole, rtol=1e-5, atol=1e-5)


def test_rows_that_do_not_divide_and_no_mesh_change_nothing():
  x = jnp.ones((3, 4))
  assert sharding.rows(x) is x
  assert sharding.gathered(x, ('embed', 'mlp'), x.dtype).dtype == x.dtype
  work = lambda x, m, over: (x @ m, over)  # noqa: E731
  wide = sharding.own_columns(work, x[:, None], jnp.ones((4, 2)))
  assert wide[0].shape == (3, 1, 2)
  assert wide[1] == ()
  found, _ = on_eight(lambda x: sharding.rows(x) + 1, x)
  np.testing.assert_array_equal(found, x + 1)
