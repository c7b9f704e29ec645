"""What another run has learnt is taken as far as it fits; what does not is told."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import checkpoints
from transfusion_jax.core import axes
from transfusion_jax.training import (
  checkpoint,
  checkpoint_reader,
  mesh,
  state,
  warm_start,
  workdir,
)

NAMES = {
  'table': ('vocab', 'embed'),
  'head': {'matrix': ('embed', 'vocab')},
  'matrix': ('embed', 'mlp'),
  'bias': ('mlp',),
}
OURS = {'table': (8, 4), 'head': {'matrix': (4, 8)}, 'matrix': (4, 2), 'bias': (2,)}
THEIRS = {'table': (6, 4), 'head': {'matrix': (4, 6)}, 'matrix': (4, 2), 'bias': (3,)}
OWN = warm_start.StartConfig('', -1, 'own')


def made(shapes, seed, *, average, given=None):
  """A state of some shapes on eight devices, of random numbers or of those given."""
  rng = np.random.default_rng(seed)
  params = jax.tree.map(
    lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
    shapes,
    is_leaf=lambda node: isinstance(node, tuple),
  )
  now = state.initial(
    lambda key: params,
    checkpoints.TX,
    jax.random.key(seed),
    average=average,
    given=given,
  )
  names = {name: NAMES[name] for name in shapes}
  devices = mesh.make(mesh.MeshConfig(1, 2, 2, 2))
  return jax.device_put(now, state.shardings(now, names, checkpoints.TX, devices))


def wanted(state):
  """Shapes and shardings of a state's parameters."""
  return checkpoint_reader.abstract(
    state.params, jax.tree.map(lambda leaf: leaf.sharding, state.params)
  )


@pytest.fixture
def theirs(tmp_path):
  """A run with another vocabulary, a bias of another size and a surplus array."""
  now = made({**THEIRS, 'matrix': (4, 2)}, 1, average=True)
  now = dataclasses.replace(now, ema=jax.tree.map(lambda x: x + 1.0, now.params))
  place = workdir.Workdir(tmp_path / 'theirs').checkpoints
  with checkpoint.Checkpoints(place, checkpoint.ONE) as kept:
    kept.save(now, {})
  return tmp_path / 'theirs', now


@pytest.mark.parametrize('parameters', ['own', 'params', 'ema'])
def test_what_fits_is_taken(theirs, parameters, caplog):
  folder, before = theirs
  config = warm_start.StartConfig(str(folder), -1, parameters)
  fresh = made(OURS, 2, average=True)
  expected = jax.tree.map(np.asarray, fresh.params)
  source = before.params if parameters == 'params' else before.ema
  caplog.set_level(logging.INFO)
  same, other = warm_start.read(config, wanted(fresh), NAMES)
  assert {path[0] for path in same} == {'matrix'}
  assert {path[0] for path in other} == {'table', 'head'}
  assert same['matrix',].sharding == fresh.params['matrix'].sharding
  found = made(OURS, 2, average=True, given=same | other)
  for params in (found.params, found.ema):
    np.testing.assert_array_equal(params['matrix'], source['matrix'])
    np.testing.assert_array_equal(params['bias'], expected['bias'])
    np.testing.assert_array_equal(params['table'][:6], source['table'])
    np.testing.assert_array_equal(params['table'][6:], expected['table'][6:])
    head = params['head']['matrix']
    np.testing.assert_array_equal(head[:, :6], source['head']['matrix'])
    np.testing.assert_array_equal(head[:, 6:], expected['head']['matrix'][:, 6:])
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(found.opt_state[0].mu))


def test_differences_are_told_a_line_each(theirs, caplog):
  folder, _ = theirs
  # The package's logger does not propagate once a command has set it up.
  lines = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(warm_start.log, 'info', lines.append)
    config = warm_start.StartConfig(str(folder), 1 - 1, 'own')
    shapes = {name: OURS[name] for name in ('table', 'head', 'bias')}
    shapes['extra'] = (2,)
    with patch.context() as names:
      names.setitem(NAMES, 'extra', ('mlp',))
      warm_start.read(config, wanted(made(shapes, 2, average=False)), NAMES)
  assert lines[0].startswith('beginning with 2 of 4 arrays of')
  assert lines[1:] == [
    '- bias float32[3]',
    '+ bias float32[2]',
    '+ extra float32[2]',
    '~ head/matrix: 6 and 8 rows',
    '- matrix float32[4,2]',
    '~ table: 6 and 8 rows',
  ]


def test_layers_of_another_width_are_made_anew(tmp_path):
  """Their names leave out the axis that stacks them."""
  names = {'blocks': {'up': ('embed', 'mlp'), 'gain': ('embed',)}}
  theirs, ours = (
    {'blocks': {'up': (3, width, 8), 'gain': (3, width)}} for width in (4, 6)
  )
  lines = []

  def state_of(shapes):
    params = jax.tree.map(jnp.zeros, shapes, is_leaf=lambda x: isinstance(x, tuple))
    now = state.initial(
      lambda key: params, checkpoints.TX, jax.random.key(0), average=False
    )
    return jax.device_put(now, axes.replicated(mesh.single()))

  place = workdir.Workdir(tmp_path / 'theirs').checkpoints
  with checkpoint.Checkpoints(place, checkpoint.ONE) as kept:
    kept.save(state_of(theirs), {})
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(warm_start.log, 'info', lines.append)
    config = warm_start.StartConfig(str(tmp_path / 'theirs'), -1, 'own')
    assert warm_start.read(config, wanted(state_of(ours)), names) == ({}, {})
  assert lines[0].startswith('beginning with 0 of 2 arrays')
  assert '- blocks/up float32[3,4,8]' in lines
  assert '+ blocks/up float32[3,6,8]' in lines


def test_nothing_is_asked_for(theirs):
  params = wanted(made(OURS, 2, average=False))
  assert warm_start.read(OWN, params, NAMES) == ({}, {})


@pytest.mark.parametrize(
  ('changes', 'expected'),
  [
    ({'step': 7}, 'expected one of the steps 0 under .*, found step 7'),
    ({'checkpoint': 'nowhere'}, 'expected a checkpoint under .*, found none'),
  ],
)
def test_bad_starts(theirs, changes, expected):
  config = dataclasses.replace(OWN, checkpoint=str(theirs[0]))
  with pytest.raises(ValueError, match=expected):
    warm_start.find(dataclasses.replace(config, **changes))


def test_a_run_without_an_average_has_none_to_give(tmp_path):
  now = made(OURS, 1, average=False)
  place = workdir.Workdir(tmp_path / 'run').checkpoints
  with checkpoint.Checkpoints(place, checkpoint.ONE) as kept:
    kept.save(now, {})
  config = dataclasses.replace(OWN, checkpoint=str(tmp_path / 'run'))
  assert warm_start.find(config).field == 'params'
  with pytest.raises(ValueError, match=r"found no 'ema' in step 0; there are .*params"):
    warm_start.find(dataclasses.replace(config, parameters='ema'))
