"""Programs on the simulated devices: memory adds up, whole weights are found."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from transfusion_jax.compiling import collectives, hlo, program, summary, topologies
from transfusion_jax.core import tree
from transfusion_jax.training import mesh as mesh_lib
from transfusion_jax.training import state


def shaped(mesh, shape, *spec):
  sharding = NamedSharding(mesh, PartitionSpec(*spec))
  return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)


def made():
  mesh = mesh_lib.make(mesh_lib.MeshConfig(2, 4, 1, 1))
  weights, rows = shaped(mesh, (64, 64), 'fsdp'), shaped(mesh, (8, 64), 'data')
  step = jax.jit(lambda w, x: w + x.T @ x, donate_argnums=(0,))
  return mesh, weights, rows, program.build(step, (weights, rows), mesh)


def test_memory_adds_up():
  _, weights, rows, found = made()
  assert (
    found.arguments == program.shard_bytes((weights, rows)) == 16 * 64 * 4 + 4 * 256
  )
  assert found.peak_bytes == (
    found.arguments + found.outputs + found.temporaries - found.aliases
  )
  assert found.flops == 2 * 64 * 64 * 8
  assert hlo.parse(found.text).entry


def test_the_summary_names_what_the_issue_of_a_pod_is():
  mesh, weights, rows, found = made()
  nothing = {'step': (), 'ema': {}, 'opt_state': (), 'key': (), 'norm': ()}
  held = tree.likeness(state.TrainState, params={'w': weights}, **nothing)
  result = summary.measure(
    found,
    topology=topologies.find('v5e:2x4'),
    mesh=mesh,
    state=held,
    batch=rows,
    trips=1,
    model_flops=found.flops,
  )
  assert result['fits']
  assert result['hbm_bytes'] == 16 * 2**30
  assert result['parameter_bytes'] == 16 * 64 * 4
  assert result['average_bytes'] == 0
  assert result['step_seconds'] >= result['synchronous_seconds'] > 0
  assert {each['kind'] for each in result['collectives']} <= set(collectives.KINDS)
  told = '\n'.join(summary.lines(result))
  assert 'fits' in told
  assert 'data 2 x fsdp 4 x sequence 1 x tensor 1' in told
  assert result['collectives'][0]['kind'] in told


def test_large_weights_that_are_whole_everywhere_are_named():
  mesh = mesh_lib.make(mesh_lib.MeshConfig(2, 4, 1, 1))
  weights = {
    'whole': shaped(mesh, (1024, 512)),
    'divided': shaped(mesh, (1024, 512), 'fsdp'),
    'odd': shaped(mesh, (1023, 513)),
    'small': shaped(mesh, (8, 8)),
  }
  found = program.replicated({'a': weights})
  # `odd` has no axis that divides: it is whole, whatever the reason.
  assert [each['name'] for each in found] == ['a.odd', 'a.whole']
  assert found[1]['bytes'] == 2**21
  alone = mesh_lib.make(mesh_lib.MeshConfig(8, 1, 1, 1))
  assert program.replicated({'whole': shaped(alone, (1024, 512))}) == []


def test_a_state_that_is_too_large_is_found_before_compiling():
  mesh = mesh_lib.make(mesh_lib.MeshConfig(2, 4, 1, 1))
  weights = shaped(mesh, (1024, 512), 'fsdp')
  held = math.prod(weights.shape)
  program.check_state(weights, held)
  with pytest.raises(program.DoesNotFit, match='for its state alone') as error:
    program.check_state(weights, held // 2)
  assert error.value.times == 2


@pytest.mark.parametrize(
  ('message', 'said', 'times'),
  [
    ('Ran out.\nUsed 30.00G of 15.00G hbm. Exceeded', 'needs 30.00G of 15.00G HBM', 2),
    ('Used 1.5T of 512.0G hbm.', 'needs 1.5T of 512.0G HBM', 3),
    ('Ran out of memory.\nNo more is known.', 'Ran out of memory.', 1),
  ],
)
def test_what_the_compiler_says_of_memory(message, said, times):
  found = program.exhausted(message)
  assert str(found) == said
  assert found.times == times
