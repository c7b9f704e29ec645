"""The loop where something fails in the middle: what was learnt is saved first."""

import signal

import jax.numpy as jnp
import pytest

from tests.support import checkpoints
from transfusion_jax.core import command
from transfusion_jax.training import (
  checkpoint,
  feed,
  goodput,
  guard,
  loop,
  metrics,
  preemption,
)

CONFIG = loop.TrainConfig(
  steps=9,
  microbatches=1,
  log_every=2,
  compile_cache='',
  checkpoints=checkpoints.keep(2),
  guard=guard.GuardConfig('skip', 10, 0.0),
)
MEASURED = {'loss': 1.0, 'grad_norm': 1.0, 'skipped': 0.0}


def step(state, batch):
  """A step that counts, with fixed metrics."""
  return checkpoints.ADVANCE(state), {k: jnp.float32(v) for k, v in MEASURED.items()}


class Batches:
  """Batches that end with an error after some."""

  unit = 'tokens'

  def __init__(self, good: int, error: Exception):
    self.good, self.error, self.count, self.told = good, error, 0, 0

  def __next__(self):
    if self.count == self.good:
      raise self.error
    self.count += 1
    return self.count

  def get_state(self):
    return {'next': self.count}

  def given(self):
    new, self.told = self.count - self.told, self.count
    return feed.Given(digests=['d'] * new, sizes=[8] * new, waited=0.0, shares={})


def fit(tmp_path, batches, act=lambda state: None, every=0, place=None):
  """Trains four arrays; gives the records and the steps that are saved."""
  config = CONFIG
  now, _ = checkpoints.begin()
  directory = place or tmp_path / 'run' / 'checkpoints'
  path = tmp_path / 'metrics.jsonl'
  try:
    with (
      preemption.Stop() as stop,
      goodput.Account() as account,
      checkpoint.Checkpoints(directory, config.checkpoints) as kept,
    ):
      loop.fit(
        now,
        step,
        batches,
        config=config,
        around=loop.LoopContext(
          name='test',
          log=metrics.MetricsLog(path, step=0, board=tmp_path / 'board'),
          checkpoints=kept,
          score=lambda step: None,
          restore=lambda: None,
          stop=stop,
          account=account,
        ),
        schedule=lambda step: 0.1,
        callback=loop.Callback(every, act),
      )
  finally:
    with checkpoint.Checkpoints(directory, config.checkpoints) as kept:
      steps, found = kept.steps(), kept.restore(checkpoints.places((1, 4, 2, 1)))
  return metrics.read(path), steps, found


@pytest.mark.parametrize(
  ('error', 'said', 'code'),
  [
    (command.Exit(2, 'error: too many broken documents'), 'error: too many broken', 2),
    (OSError(5, 'Input/output error'), 'Input/output error', 1),
  ],
)
def test_data_that_fails_ends_with_a_checkpoint(tmp_path, error, said, code):
  batches = Batches(5, error)
  with pytest.raises(command.Exit) as ended:
    fit(tmp_path, batches)
  assert ended.value.code == code
  assert said in ended.value.message
  assert 'step 6 is saved' in ended.value.message
  directory = tmp_path / 'run' / 'checkpoints'
  with checkpoint.Checkpoints(directory, CONFIG.checkpoints) as kept:
    found = kept.restore(checkpoints.places((1, 4, 2, 1)))
  assert int(found.state.step) == 6  # it began at step 1
  assert found.progress['data'] == {'next': 5}
  assert metrics.read(tmp_path / 'metrics.jsonl')[-1]['step'] == 6


def test_a_bug_in_the_data_keeps_its_traceback_and_the_checkpoint(tmp_path):
  with pytest.raises(ZeroDivisionError):
    fit(tmp_path, Batches(3, ZeroDivisionError()))
  directory = tmp_path / 'run' / 'checkpoints'
  with checkpoint.Checkpoints(directory, CONFIG.checkpoints) as kept:
    assert kept.steps() == [3, 4]


@pytest.mark.parametrize(
  'error', [ZeroDivisionError('one'), OSError(28, 'No space'), command.Exit(2, 'x')]
)
def test_an_evaluation_that_fails_is_told_and_training_goes_on(
  tmp_path, error, monkeypatch
):
  told = []
  monkeypatch.setattr(loop.log, 'warning', told.append)

  def act(state):
    raise error

  records, steps, _ = fit(tmp_path, Batches(20, AssertionError()), act, every=4)
  assert [record['step'] for record in records] == [2, 4, 6, 8, 9]
  assert steps == [8, 9]
  assert len(told) == 2
  assert type(error).__name__ in told[0]


@pytest.mark.usefixtures('terminal')
def test_a_terminal_that_is_closed_stops_a_run_and_nohup_does_not():
  with preemption.Stop() as stop:
    signal.raise_signal(signal.SIGHUP)
    assert stop.agreed()
    assert stop.exit_code == 129
  signal.signal(signal.SIGHUP, signal.SIG_IGN)
  with preemption.Stop() as stop:
    signal.raise_signal(signal.SIGHUP)
    assert not stop.agreed()
  assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
