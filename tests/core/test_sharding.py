"""What the compiler is told: the same values, divided as they should be."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from transfusion_jax.core import axes, sharding
from transfusion_jax.training import mesh


def on_eight(function, *arguments):
  """The value and text of a function traced on a mesh of eight devices."""
  devices = mesh.make(mesh.MeshConfig(2, 2, 2))
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


def test_every_device_works_on_its_own_rows_and_heads():
  q = jax.random.normal(jax.random.key(0), (8, 4, 3))
  row = jnp.arange(8.0)
  shapes = []

  def work(q, k, row):
    shapes.append((q.shape, k.shape, row['a'].shape))
    return q + k.sum(axis=1, keepdims=True) * row['a'][:, None, None]

  def divided(q, k, row):
    return sharding.own(work, (q, k), {'a': row})

  found, _ = on_eight(divided, q, q[:, :1], row)  # one key head: heads stay whole
  assert shapes[-1] == ((2, 4, 3), (2, 1, 3), (2,))
  np.testing.assert_allclose(found, work(q, q[:, :1], {'a': row}), rtol=1e-6)
  on_eight(divided, q, q, row)
  assert shapes[-1] == ((2, 2, 3), (2, 2, 3), (2,))


def test_rows_that_do_not_divide_and_no_mesh_change_nothing():
  x = jnp.ones((3, 4))
  assert sharding.rows(x) is x
  assert sharding.gathered(x, ('embed', 'mlp'), x.dtype).dtype == x.dtype
  found, _ = on_eight(lambda x: sharding.rows(x) + 1, x)
  np.testing.assert_array_equal(found, x + 1)
