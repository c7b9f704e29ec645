"""The state: sharded from the moment it exists, moments beside their parameters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from tests.support import tiny
from transfusion_jax.core import tree
from transfusion_jax.training import mesh as mesh_lib
from transfusion_jax.training import optimizer, state

NAMES = {'matrix': ('embed', 'mlp'), 'gain': ('norm',), 'bias': ('mlp',)}


def init(key):
  return {
    'matrix': jax.random.normal(key, (64, 128)),
    'gain': jnp.ones((3, 64)),
    'bias': jnp.zeros((128,)),
  }


@functools.cache
def made(config=tiny.OPTIMIZER):
  """Mesh, shardings, the compiled making of the state, and a state."""
  mesh = mesh_lib.make(mesh_lib.MeshConfig(data=2, fsdp=2, sequence=1, tensor=2))
  tx = optimizer.make(config, NAMES, 10)
  make = functools.partial(state.initial, init, tx, average=True)
  abstract = jax.eval_shape(make, jax.random.key(0))
  places = state.shardings(abstract, NAMES, tx, mesh)
  compiled = jax.jit(make, out_shardings=places).lower(jax.random.key(0)).compile()
  return places, compiled, compiled(jax.random.key(0))


def test_parameters_average_and_moments_follow_the_table_of_axes():
  _, _, begin = made()
  moments = begin.opt_state[1][0]
  for owner in (begin.params, begin.ema, moments.mu, moments.nu):
    assert owner['matrix'].sharding.spec == PartitionSpec('fsdp', 'tensor')
    assert owner['bias'].sharding.spec == PartitionSpec('tensor')
    assert owner['matrix'].addressable_shards[0].data.shape == (32, 64)
    assert owner['gain'].sharding.is_fully_replicated
  for whole in (begin.step, begin.key, moments.count):
    assert whole.sharding.is_fully_replicated


def test_moments_of_another_type_follow_their_parameters_too():
  config = dataclasses.replace(tiny.OPTIMIZER, moments='bfloat16')
  places, _, begin = made(config)
  for moments in (begin.opt_state[1][0].mu, begin.opt_state[1][0].nu):
    assert {leaf.dtype for leaf in jax.tree.leaves(moments)} == {jnp.dtype('bfloat16')}
    assert moments['matrix'].sharding.spec == PartitionSpec('fsdp', 'tensor')
  assert jax.tree.structure(places) == jax.tree.structure(begin)
  assert begin.params['matrix'].dtype == begin.ema['matrix'].dtype == jnp.float32


def test_without_an_average_nothing_is_copied():
  tx = optimizer.make(tiny.OPTIMIZER, NAMES, 10)
  make = functools.partial(state.initial, init, tx, average=False)
  begin = make(jax.random.key(0))
  mesh = mesh_lib.make(mesh_lib.MeshConfig(data=2, fsdp=2, sequence=1, tensor=2))
  places = state.shardings(begin, NAMES, tx, mesh)
  assert jax.tree.structure(places) == jax.tree.structure(begin)
  assert begin.ema == {}
  assert begin.averaged is begin.params
  assert made()[2].averaged is made()[2].ema
  assert [state.averaged_field(decay) for decay in (0.0, 0.99)] == ['params', 'ema']


def test_nothing_is_made_whole_on_one_device():
  _, compiled, _ = made()
  text = compiled.as_text()
  assert 'f32[32,64]' in text
  assert 'f32[64,128]' not in text
  assert 'u32[64,128]' not in text


def test_sharded_numbers_are_those_of_one_device():
  _, _, begin = made()
  tx = optimizer.make(tiny.OPTIMIZER, NAMES, 10)
  alone = state.initial(init, tx, jax.random.key(0), average=True)
  np.testing.assert_array_equal(begin.params['matrix'], alone.params['matrix'])
  np.testing.assert_array_equal(begin.ema['matrix'], alone.params['matrix'])
  np.testing.assert_array_equal(
    jax.random.key_data(begin.key), jax.random.key_data(alone.key)
  )
  assert int(begin.step) == 0


def test_the_runs_key_is_not_that_of_the_parameters():
  _, _, begin = made()
  used = jax.random.key_data(jax.random.key(0))
  assert not np.array_equal(jax.random.key_data(begin.key), used)


def test_every_array_of_the_whole_model_has_its_place():
  plan = tiny.blueprint()
  mesh = mesh_lib.make(mesh_lib.MeshConfig(data=1, fsdp=4, sequence=1, tensor=2))
  tx = optimizer.make(tiny.OPTIMIZER, plan.axes, 10)
  abstract = jax.eval_shape(
    functools.partial(state.initial, plan.init, tx, average=True), jax.random.key(0)
  )
  places = state.shardings(abstract, plan.axes, tx, mesh)
  assert jax.tree.structure(places) == jax.tree.structure(abstract)
  specs = {path: s.spec for path, s in tree.flatten(places.params).items()}
  attention = ('transformer', 'blocks', 'attention')
  assert specs[*attention, 'query'] == PartitionSpec(None, 'fsdp', 'tensor', None)
  assert specs[*attention, 'out'] == PartitionSpec(None, 'tensor', None, 'fsdp')
  assert specs[*attention, 'key'] == PartitionSpec(None, 'fsdp', None, None)  # one head
  assert specs['embedding',] == PartitionSpec('tensor', 'fsdp')
  assert specs['head', 'matrix'] == PartitionSpec('fsdp', 'tensor')
  shard = places.params['embedding'].shard_shape((tiny.TABLE, 16))
  assert shard == (tiny.TABLE // 2, 4)
