"""Stage of a run: training from the last checkpoint, or from scratch, to the end."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from transfusion_jax.core import command, log
from transfusion_jax.training import (
  checkpoint,
  feed,
  goodput,
  lock,
  loop,
  metrics,
  preemption,
  scores,
)
from transfusion_jax.training import state as state_lib
from transfusion_jax.training import step as step_lib
from transfusion_jax.training import workdir as workdir_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """Definition of one training stage.

  Attributes:
    name: name for the progress bar and the log.
    config: length of the stage, and intervals.
    seed: seed of the state's key.
    abstract: shapes and shardings of the state.
    init: creates the state from a key.
    saved_first: if True, a fresh state is saved before its first step, because `init`
      may create another one after a restart.
    step: jitted step.
    schedule: learning rate by step.
    callback: callback between steps.
    feed: creates the feed, from its state in a checkpoint or from the beginning (None).
  """

  name: str
  config: loop.TrainConfig
  seed: int
  abstract: state_lib.TrainState
  init: Callable[[jax.Array], state_lib.TrainState]
  saved_first: bool
  step: step_lib.Step
  schedule: Callable[[int], Any]
  callback: loop.Callback
  feed: Callable[[dict[str, Any] | None], feed.Feed]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Final state of a stage, and its seconds by account, over all restarts."""

  state: state_lib.TrainState
  seconds: dict[str, float]


def run(
  stage: Stage,
  place: workdir_lib.Workdir,
  stop: preemption.Stop,
  *,
  before: Mapping[str, float],
  held: lock.Lock,
) -> Outcome:
  """Trains a stage, from its newest good checkpoint if there is one.

  Args:
    stage: stage to train.
    place: its work directory.
    stop: stop request, checked before every step.
    before: seconds by account (`goodput`) of earlier stages, for a fresh start.
    held: lock of the work directory.
  """
  held.check()
  kept, metadata = stage.config.checkpoints, place.metadata()
  with (
    goodput.Account() as account,
    checkpoint.Checkpoints(
      place.checkpoints, kept, saved=place.note_saved
    ) as checkpoints,
  ):
    state, progress = _begin(stage, checkpoints)
    if not progress and stage.saved_first:
      checkpoints.save(state, {'seconds': dict(before)})
    account.add(progress.get('seconds', before))
    step = int(state.step)
    if progress and step >= stage.config.steps:
      return Outcome(state, account.seconds)
    kept_seconds = sum(progress.get('seconds', {}).values(), start=0.0)
    account.add({'lost': _lost(place, kept_seconds)})
    metrics.keep(place.evaluation, until=step)
    lines = metrics.MetricsLog(place.metrics, step=step, board=place.board('training'))
    around = loop.LoopContext(
      name=stage.name,
      log=lines,
      checkpoints=checkpoints,
      score=lambda step: scores.of(
        place.evaluation, lines.last, step=step, name=kept.score
      ),
      restore=lambda: (held.check(), place.restore(metadata)),
      stop=stop,
      account=account,
    )
    state = loop.fit(
      state,
      stage.step,
      stage.feed(progress.get('data')),
      config=stage.config,
      around=around,
      schedule=stage.schedule,
      callback=stage.callback,
    )
    log.info(f'{stage.name}, time: {goodput.shares(account.seconds)}')
    return Outcome(state, account.seconds)


def _begin(
  stage: Stage, checkpoints: checkpoint.Checkpoints
) -> tuple[state_lib.TrainState, dict[str, Any]]:
  """Initial state, and the progress of its checkpoint: empty at a fresh start."""
  with command.user_errors():
    restored = checkpoints.restore(stage.abstract)
  if restored is None:
    return stage.init(jax.random.key(stage.seed)), {}
  step = int(restored.state.step)
  log.info(f'{stage.name}: going on from step {step} of {stage.config.steps}')
  return restored.state, restored.progress


def _lost(place: workdir_lib.Workdir, kept: float) -> float:
  """Seconds of steps after the checkpoint, which were lost when the run was killed."""
  lines = metrics.read(place.metrics)
  return max(0.0, lines[-1]['seconds'] - kept) if lines else 0.0
