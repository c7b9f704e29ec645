"""Checkpoints: the same bits back, on any mesh, whole or in part."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import checkpoints, tiny
from transfusion_jax.core import command, tree
from transfusion_jax.training import (
  checkpoint,
  checkpoint_reader,
  mesh,
  optimizer,
  state,
)


@pytest.mark.parametrize('sizes', [(2, 2, 1, 2), (1, 4, 2, 1)])
def test_the_state_comes_back_to_the_last_bit_on_any_mesh(tmp_path, sizes):
  now, _ = checkpoints.begin()
  with checkpoint.Checkpoints(tmp_path / 'c', checkpoints.keep(2)) as kept:
    assert kept.restore(checkpoints.places(sizes)) is None
    kept.save(now, checkpoints.PROGRESS)
    assert kept.steps() == [1]
  wanted = checkpoints.places(sizes)
  with checkpoint.Checkpoints(tmp_path / 'c', checkpoints.keep(2)) as kept:
    found = kept.restore(wanted)
  checkpoints.assert_same(found.state, now)
  assert found.progress == checkpoints.PROGRESS
  for leaf, place in zip(
    jax.tree.leaves(found.state), jax.tree.leaves(wanted), strict=True
  ):
    assert leaf.sharding.is_equivalent_to(place.sharding, leaf.ndim)
  # The key is still a typed one, and what follows is the same.
  assert jnp.issubdtype(found.state.key.dtype, jax.dtypes.prng_key)
  if sizes == (2, 2, 1, 2):
    checkpoints.assert_same(checkpoints.ADVANCE(found.state), checkpoints.ADVANCE(now))


def test_a_save_is_not_disturbed_by_the_steps_that_follow(tmp_path):
  now, wanted = checkpoints.begin()
  expected = checkpoints.numbers(now)
  with checkpoint.Checkpoints(tmp_path / 'c', checkpoints.keep(2)) as kept:
    kept.save(now, checkpoints.PROGRESS)
    for _ in range(5):
      now = checkpoints.DONATE(now)  # takes over the memory that is being written
    kept.wait()
    found = kept.restore(wanted)
  for x, y in zip(expected, checkpoints.numbers(found.state), strict=True):
    np.testing.assert_array_equal(x, y)


def test_the_newest_are_kept_and_one_step_is_saved_once(tmp_path):
  now, wanted = checkpoints.begin()
  with checkpoint.Checkpoints(tmp_path / 'c', checkpoints.keep(2)) as kept:
    for _ in range(3):
      kept.save(now, checkpoints.PROGRESS)
      kept.save(now, {'other': 1})
      now = checkpoints.ADVANCE(now)
    kept.wait()
    assert kept.steps() == [2, 3]
    assert kept.restore(wanted).progress == checkpoints.PROGRESS
  assert sorted(p.name for p in (tmp_path / 'c').iterdir() if p.name.isdigit()) == [
    '2',
    '3',
  ]


@pytest.mark.parametrize('broken', [np.nan, np.inf])
def test_a_state_that_is_no_number_is_not_saved(tmp_path, broken):
  now, _ = checkpoints.begin()
  ema = jax.tree.map(lambda leaf: leaf.at[0].set(broken), now.ema)
  with checkpoint.Checkpoints(tmp_path, checkpoints.keep(2)) as kept:
    kept.save(now, {})
    worse = dataclasses.replace(now, step=now.step + 1, ema=ema)
    with pytest.raises(command.Exit, match='infinity or NaN in ema/'):
      kept.save(worse, {})
    assert kept.steps() == [int(now.step)]


def test_moments_in_bfloat16_keep_their_type_and_bits(tmp_path):
  config = dataclasses.replace(tiny.OPTIMIZER, moments='bfloat16')
  tx = optimizer.make(config, checkpoints.NAMES, 10)
  now = state.initial(checkpoints.init, tx, jax.random.key(3), average=False)
  with jax.numpy_dtype_promotion('standard'):
    _, kept = tx.update(now.params, now.opt_state, now.params)
  now = dataclasses.replace(now, opt_state=kept)
  devices = mesh.make(mesh.MeshConfig(2, 2, 1, 2))
  places = state.shardings(now, checkpoints.NAMES, tx, devices)
  with checkpoint.Checkpoints(tmp_path / 'c', checkpoints.keep(1)) as kept:
    kept.save(jax.device_put(now, places), checkpoints.PROGRESS)
    kept.wait()
    found = kept.restore(checkpoint_reader.abstract(now, places))
  checkpoints.assert_same(found.state, now)
  moments = jax.tree.leaves(found.state.opt_state[1][0].nu)
  assert {leaf.dtype for leaf in moments} == {jnp.dtype('bfloat16')}


def test_only_the_average_is_read(tmp_path):
  now, wanted = checkpoints.begin()
  with checkpoint.Checkpoints(tmp_path / 'c', checkpoints.keep(1)) as kept:
    kept.save(now, checkpoints.PROGRESS)
  found = checkpoint_reader.read(tmp_path / 'c', {'ema': wanted.ema})
  checkpoints.assert_same(found.state.ema, now.ema)
  assert found.state.params is None
  assert found.state.opt_state is None
  assert found.progress == checkpoints.PROGRESS


def test_a_state_without_an_average_comes_back(tmp_path):
  now, wanted = checkpoints.begin()
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
  with checkpoint.Checkpoints(tmp_path / 'c', checkpoints.keep(1)) as kept:
    kept.save(now, checkpoints.PROGRESS)
    kept.wait()
    checkpoints.assert_same(kept.restore(wanted).state, now)
  found = checkpoint_reader.read(tmp_path / 'c', {'params': wanted.params})
  checkpoints.assert_same(found.state.averaged, now.params)


def test_no_checkpoint_is_an_error_that_says_what_to_do(tmp_path):
  for directory in (tmp_path / 'nowhere', tmp_path):
    with pytest.raises(ValueError, match='found none; train first'):
      checkpoint_reader.read(directory, {'ema': {}})
  assert not (tmp_path / 'nowhere').exists()
