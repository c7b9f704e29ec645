"""Broken batches leave nothing behind, are told by name, and end a run in time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny, tiny_step
from transfusion_jax.core import command
from transfusion_jax.training import guard

SKIP = guard.GuardConfig('skip', limit=3, spike=0.0)
GOOD = {'skipped': 0.0, 'loss': 1.0, 'loss_text': 0.5, 'grad_norm': 1.0}
NAN = float('nan')
BAD = {'skipped': 1.0, 'loss': NAN, 'loss_image_3': NAN, 'grad_norm': NAN}


@pytest.fixture(scope='module')
def steps():
  return jax.jit(tiny_step.make(ema_decay=0.5)), jax.jit(tiny_step.make(spike=3.0))


def kept(state):
  return jax.tree.map(np.asarray, (state.params, state.ema, state.opt_state))


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_broken_batch_changes_nothing_but_the_count(steps, value):
  step, _ = steps
  batch = tiny.mixed_batch()
  before, _ = step(tiny_step.initial(tiny_step.SGD), batch)
  broken = dataclasses.replace(batch, images=batch.images.at[0].set(value))
  after, metrics = step(before, broken)
  assert int(after.step) == int(before.step) + 1
  assert float(metrics['skipped']) == 1.0
  jax.tree.map(np.testing.assert_array_equal, kept(before), kept(after))
  assert float(after.norm) == float(before.norm)
  # The next good batch goes on as if nothing had been.
  onward, metrics = step(after, batch)
  assert float(metrics['skipped']) == 0.0
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(onward.params))


def test_a_spike_is_skipped_once_the_norm_is_known(steps):
  _, step = steps
  batch = tiny.mixed_batch()
  state, metrics = step(tiny_step.initial(tiny_step.SGD), batch)
  usual = float(metrics['grad_norm'])
  np.testing.assert_allclose(float(state.norm), usual, rtol=1e-6)
  for norm, step_number, skipped in [(usual, 500, 0), (usual / 9, 500, 1), (0.1, 5, 0)]:
    here = dataclasses.replace(
      state, step=jnp.int32(step_number), norm=jnp.float32(norm)
    )
    _, metrics = step(jax.tree.map(jnp.copy, here), batch)
    assert float(metrics['skipped']) == skipped


def test_what_is_broken_is_said():
  lines = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(guard.log, 'info', lines.append)
    watch = guard.Guard(SKIP)
    assert watch.look(11, [GOOD, BAD, GOOD], ['aa', 'bb', 'cc']) == 1
    spike = {**GOOD, 'skipped': 1.0, 'grad_norm': 250.0}
    assert watch.look(14, [spike], ['dd']) == 1
  assert lines == [
    'step 12, batch bb: loss_image_3, grad_norm not finite; its update is not made',
    'step 14, batch dd: a gradient of norm 250, far above the usual; its update is not '
    'made',
  ]


def test_too_many_in_a_row_end_the_run():
  watch = guard.Guard(SKIP)
  watch.look(1, [BAD, BAD, GOOD, BAD], list('abcd'))
  with pytest.raises(command.Exit, match='step 6, batch f: .*3 in a row') as error:
    watch.look(5, [BAD, BAD], list('ef'))
  assert error.value.code == 2


def test_the_policy_may_be_to_stop():
  watch = guard.Guard(dataclasses.replace(SKIP, policy='stop'))
  with pytest.raises(command.Exit, match='step 1, batch a: .*guard.policy=skip'):
    watch.look(1, [BAD], ['a'])


@pytest.mark.parametrize('changes', [{'limit': 0}, {'spike': -1.0}])
def test_bad_settings(changes):
  with pytest.raises(ValueError, match='change train.guard'):
    dataclasses.replace(SKIP, **changes)
