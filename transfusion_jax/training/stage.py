"""One stage of a run, from its last checkpoint (or a fresh start) to its end."""

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


@dataclasses.dataclass(frozen=True)
class Stage:
  """What is trained, and how.

  Attributes:
    name: what the progress bar calls it.
    config: how long, and how often what is done.
    seed: of the state's key.
    abstract: shapes and shardings of the state.
    init: makes the state from a key.
    saved_first: whether a fresh state is saved before its first step, because `init`
      may make another one next time.
    step: the jitted step.
    schedule: learning rate by step.
    callback: what is done between steps.
    feed: data from where a checkpoint left it, or from the beginning (None).
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
  """How a stage ended: its state, and the seconds by account, of all its parts."""

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
    stage: what is trained.
    place: its work directory.
    stop: asked after every step.
    before: seconds that went before a fresh start, by account (`goodput`).
    held: the lock of the work directory.
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
      score=lambda step: scores.of(place.evaluation, lines.last, step, kept.score),
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
  """The state to begin with, and the progress behind it: empty at a fresh start."""
  with command.user_errors():
    restored = checkpoints.restore(stage.abstract)
  if restored is None:
    return stage.init(jax.random.key(stage.seed)), {}
  step = int(restored.state.step)
  log.info(f'{stage.name}: going on from step {step} of {stage.config.steps}')
  return restored.state, restored.progress


def _lost(place: workdir_lib.Workdir, kept: float) -> float:
  """Seconds of steps beyond the checkpoint, which a kill threw away."""
  lines = metrics.read(place.metrics)
  return max(0.0, lines[-1]['seconds'] - kept) if lines else 0.0
