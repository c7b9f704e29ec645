"""From axis names to mesh axes."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from transfusion_jax.core import axes
from transfusion_jax.training import mesh

SIZES = {'slice': 1, 'data': 2, 'fsdp': 2, 'tensor': 2}


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
  devices = mesh.make(mesh.MeshConfig(data=2, fsdp=2, sequence=1, tensor=2))
  shapes = {'a': {'b': jnp.zeros((2, 8, 4))}, 'c': jnp.zeros((3,))}
  found = axes.shardings(
    devices, {'a': {'b': ('embed', 'vocab')}, 'c': ('norm',)}, shapes
  )
  assert found['a']['b'].spec == PartitionSpec(None, 'fsdp', 'tensor')
  assert found['c'].spec == PartitionSpec(None)
  assert all(s.mesh == devices for s in jax.tree.leaves(found))
