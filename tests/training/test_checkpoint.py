"""Checkpoints: the same bits back, on any mesh, whole or in part."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from transfusion_jax.core import command, tree
from transfusion_jax.training import (
  checkpoint,
  checkpoint_reader,
  mesh,
  optimizer,
  state,
)

NAMES = {'matrix': ('embed', 'mlp'), 'bias': ('mlp',)}
TX = optax.adam(1e-2)
PROGRESS = {'data': {'next': 7, 'carried': [3, 5]}, 'seconds': 0.1 + 0.2}


def keep(newest):
  return dataclasses.replace(checkpoint.ONE, newest=newest)


def init(key):
  return {'matrix': jax.random.normal(key, (64, 32)), 'bias': jnp.zeros(32)}


def advance(now):
  """A step that changes everything."""
  grads = jax.tree.map(lambda p: p + 1.0, now.params)
  with jax.numpy_dtype_promotion('standard'):
    updates, kept = TX.update(grads, now.opt_state, now.params)
  params = optax.apply_updates(now.params, updates)
  ema = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, now.ema, params)
  return state.TrainState(now.step + 1, params, ema, kept, now.key, now.norm)


ADVANCE = jax.jit(advance)
DONATE = jax.jit(advance, donate_argnums=(0,))


def places(sizes):
  """Shapes and shardings of the state on a mesh."""
  devices = mesh.make(mesh.MeshConfig(*sizes))
  shapes = jax.eval_shape(
    lambda key: state.initial(init, TX, key, average=True), jax.random.key(0)
  )
  return checkpoint_reader.abstract(shapes, state.shardings(shapes, NAMES, TX, devices))


def begin(sizes=(2, 2, 1, 2)):
  made = ADVANCE(state.initial(init, TX, jax.random.key(3), average=True))
  wanted = places(sizes)
  return jax.device_put(made, jax.tree.map(lambda leaf: leaf.sharding, wanted)), wanted


def numbers(tree):
  """Every leaf as NumPy, keys by their data."""
  return [
    np.array(
      jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    )
    for x in jax.tree.leaves(tree)
  ]


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(numbers(a), numbers(b), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize('sizes', [(2, 2, 1, 2), (1, 4, 2, 1)])
def test_the_state_comes_back_to_the_last_bit_on_any_mesh(tmp_path, sizes):
  now, _ = begin()
  with checkpoint.Checkpoints(tmp_path / 'c', keep(2)) as kept:
    assert kept.restore(places(sizes)) is None
    kept.save(now, PROGRESS)
    assert kept.steps() == [1]
  wanted = places(sizes)
  with checkpoint.Checkpoints(tmp_path / 'c', keep(2)) as kept:
    found = kept.restore(wanted)
  assert_same(found.state, now)
  assert found.progress == PROGRESS
  for leaf, place in zip(
    jax.tree.leaves(found.state), jax.tree.leaves(wanted), strict=True
  ):
    assert leaf.sharding.is_equivalent_to(place.sharding, leaf.ndim)
  # The key is still a typed one, and what follows is the same.
  assert jnp.issubdtype(found.state.key.dtype, jax.dtypes.prng_key)
  if sizes == (2, 2, 1, 2):
    assert_same(ADVANCE(found.state), ADVANCE(now))


def test_a_save_is_not_disturbed_by_the_steps_that_follow(tmp_path):
  now, wanted = begin()
  expected = numbers(now)
  with checkpoint.Checkpoints(tmp_path / 'c', keep(2)) as kept:
    kept.save(now, PROGRESS)
    for _ in range(5):
      now = DONATE(now)  # takes over the memory that is being written
    kept.wait()
    found = kept.restore(wanted)
  for x, y in zip(expected, numbers(found.state), strict=True):
    np.testing.assert_array_equal(x, y)


def test_the_newest_are_kept_and_one_step_is_saved_once(tmp_path):
  now, wanted = begin()
  with checkpoint.Checkpoints(tmp_path / 'c', keep(2)) as kept:
    for _ in range(3):
      kept.save(now, PROGRESS)
      kept.save(now, {'other': 1})
      now = ADVANCE(now)
    kept.wait()
    assert kept.steps() == [2, 3]
    assert kept.restore(wanted).progress == PROGRESS
  assert sorted(p.name for p in (tmp_path / 'c').iterdir() if p.name.isdigit()) == [
    '2',
    '3',
  ]


@pytest.mark.parametrize('broken', [np.nan, np.inf])
def test_a_state_that_is_no_number_is_not_saved(tmp_path, broken):
  now, _ = begin()
  ema = jax.tree.map(lambda leaf: leaf.at[0].set(broken), now.ema)
  with checkpoint.Checkpoints(tmp_path, keep(2)) as kept:
    kept.save(now, {})
    worse = dataclasses.replace(now, step=now.step + 1, ema=ema)
    with pytest.raises(command.Exit, match='infinity or NaN in ema/'):
      kept.save(worse, {})
    assert kept.steps() == [int(now.step)]


def test_moments_in_bfloat16_keep_their_type_and_bits(tmp_path):
  config = dataclasses.replace(tiny.OPTIMIZER, moments='bfloat16')
  tx = optimizer.make(config, NAMES, 10)
  now = state.initial(init, tx, jax.random.key(3), average=False)
  with jax.numpy_dtype_promotion('standard'):
    _, kept = tx.update(now.params, now.opt_state, now.params)
  now = dataclasses.replace(now, opt_state=kept)
  devices = mesh.make(mesh.MeshConfig(2, 2, 1, 2))
  places = state.shardings(now, NAMES, tx, devices)
  with checkpoint.Checkpoints(tmp_path / 'c', keep(1)) as kept:
    kept.save(jax.device_put(now, places), PROGRESS)
    kept.wait()
    found = kept.restore(checkpoint_reader.abstract(now, places))
  assert_same(found.state, now)
  moments = jax.tree.leaves(found.state.opt_state[1][0].nu)
  assert {leaf.dtype for leaf in moments} == {jnp.dtype('bfloat16')}


def test_only_the_average_is_read(tmp_path):
  now, wanted = begin()
  with checkpoint.Checkpoints(tmp_path / 'c', keep(1)) as kept:
    kept.save(now, PROGRESS)
  found = checkpoint_reader.read(tmp_path / 'c', {'ema': wanted.ema})
  assert_same(found.state.ema, now.ema)
  assert found.state.params is None
  assert found.state.opt_state is None
  assert found.progress == PROGRESS


def test_a_state_without_an_average_comes_back(tmp_path):
  now, wanted = begin()
  now, wanted = (
    tree.likeness(
      state.TrainState,
      step=each.step,
      params=each.params,
      ema={},
      opt_state=each.opt_state,
      key=each.key,
      norm=each.norm,
    )
    for each in (now, wanted)
  )
  with checkpoint.Checkpoints(tmp_path / 'c', keep(1)) as kept:
    kept.save(now, PROGRESS)
    kept.wait()
    assert_same(kept.restore(wanted).state, now)
  found = checkpoint_reader.read(tmp_path / 'c', {'params': wanted.params})
  assert_same(found.state.averaged, now.params)


def test_no_checkpoint_is_an_error_that_says_what_to_do(tmp_path):
  for directory in (tmp_path / 'nowhere', tmp_path):
    with pytest.raises(ValueError, match='found none; train first'):
      checkpoint_reader.read(directory, {'ema': {}})
  assert not (tmp_path / 'nowhere').exists()
