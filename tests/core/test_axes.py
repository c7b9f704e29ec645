"""From axis names to mesh axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from transfusion_jax.core import axes
from transfusion_jax.training import mesh

SIZES = {'data': 2, 'fsdp': 2, 'tensor': 2}


def test_names_become_mesh_axes():
  assert axes.spec(('embed', 'mlp'), (8, 16), SIZES) == PartitionSpec('fsdp', 'tensor')
  assert axes.spec(('norm',), (8,), SIZES) == PartitionSpec(None)


def test_axes_before_the_named_ones_are_layers():
  found = axes.spec(('embed', 'heads', 'head_dim'), (3, 8, 4, 5), SIZES)
  assert found == PartitionSpec(None, 'fsdp', 'tensor', None)


def test_a_length_that_does_not_divide_stays_whole():
  assert axes.spec(('embed', 'mlp'), (7, 16), SIZES) == PartitionSpec(None, 'tensor')
  sizes = {**SIZES, 'fsdp': 3}
  assert axes.spec(('embed', 'mlp'), (8, 16), sizes) == PartitionSpec(None, 'tensor')


def test_an_unknown_name_is_an_error():
  with pytest.raises(ValueError, match=r"found \['embedd'\]"):
    axes.spec(('embedd',), (8,), SIZES)


def test_two_names_on_one_mesh_axis_are_an_error():
  with pytest.raises(ValueError, match='at most one axis of an array'):
    axes.spec(('heads', 'mlp'), (8, 8), SIZES)
  # Whether a length happens to divide decides nothing.
  with pytest.raises(ValueError, match='at most one axis of an array'):
    axes.spec(('heads', 'mlp'), (7, 8), SIZES)


def test_shardings_follow_nested_names():
  devices = mesh.make(mesh.MeshConfig(data=2, fsdp=2, tensor=2))
  shapes = {'a': {'b': jnp.zeros((2, 8, 4))}, 'c': jnp.zeros((3,))}
  found = axes.shardings(
    devices, {'a': {'b': ('embed', 'vocab')}, 'c': ('norm',)}, shapes
  )
  assert found['a']['b'].spec == PartitionSpec(None, 'fsdp', 'tensor')
  assert found['c'].spec == PartitionSpec(None)
  assert all(s.mesh == devices for s in jax.tree.leaves(found))


def on_eight(function, *arguments):
  """The value and text of a function traced on a mesh of eight devices."""
  devices = mesh.make(mesh.MeshConfig(2, 2, 2))
  arguments = jax.device_put(arguments, axes.replicated(devices))
  compiled = jax.jit(axes.on(devices, function)).lower(*arguments).compile()
  return compiled(*arguments), compiled.as_text()


def test_gathering_casts_and_its_gradient_is_divided_again():
  w = jax.random.normal(jax.random.key(0), (8, 4))
  x = jax.random.normal(jax.random.key(1), (16, 8))

  def loss(w, x):
    whole = axes.gathered(w, ('embed', 'mlp'), jnp.bfloat16)
    assert whole.dtype == jnp.bfloat16
    return jnp.sum(jnp.square(axes.rows(x) @ whole.astype(jnp.float32)))

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
    return axes.own(work, (q, k), {'a': row})

  found, _ = on_eight(divided, q, q[:, :1], row)  # one key head: heads stay whole
  assert shapes[-1] == ((2, 4, 3), (2, 1, 3), (2,))
  np.testing.assert_allclose(found, work(q, q[:, :1], {'a': row}), rtol=1e-6)
  on_eight(divided, q, q, row)
  assert shapes[-1] == ((2, 2, 3), (2, 2, 3), (2,))


def test_rows_that_do_not_divide_and_no_mesh_change_nothing():
  x = jnp.ones((3, 4))
  assert axes.rows(x) is x
  assert axes.gathered(x, ('embed', 'mlp'), x.dtype).dtype == x.dtype
  found, _ = on_eight(lambda x: axes.rows(x) + 1, x)
  np.testing.assert_array_equal(found, x + 1)
