"""One stage of a run, from its last checkpoint (or a fresh start) to its end."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from transfusion_jax.core import log
from transfusion_jax.training import checkpoint, feed, loop, metrics, preemption
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
    step: the jitted step.
    schedule: learning rate by step.
    interlude: what is done between steps.
    feed: data from where a checkpoint left it, or from the beginning (None).
  """

  name: str
  config: loop.TrainConfig
  seed: int
  abstract: state_lib.TrainState
  init: Callable[[jax.Array], state_lib.TrainState]
  step: step_lib.Step
  schedule: Callable[[int], Any]
  interlude: loop.Interlude
  feed: Callable[[dict[str, Any] | None], feed.Feed]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a stage ended: its state, and the seconds it took, earlier parts included."""

  state: state_lib.TrainState
  seconds: float


def run(
  stage: Stage, place: workdir_lib.Workdir, stop: preemption.Stop, *, seconds: float
) -> Outcome:
  """Trains a stage, from its newest checkpoint if there is one.

  Args:
    stage: what is trained.
    place: its work directory.
    stop: asked after every step.
    seconds: that went before a fresh start, for example on an earlier stage.
  """
  keep = stage.config.keep_checkpoints
  with checkpoint.Checkpoints(place.checkpoints, keep=keep) as checkpoints:
    newest = checkpoints.latest()
    if newest is None:
      state, progress = stage.init(jax.random.key(stage.seed)), {}
    else:
      restored = checkpoints.restore(newest, stage.abstract)
      state, progress = restored.state, restored.progress
      log.info(f'{stage.name}: going on from step {newest} of {stage.config.steps}')
    clock = loop.Clock(progress.get('seconds', seconds))
    if newest is not None and newest >= stage.config.steps:
      return Outcome(state, clock.seconds)
    metrics.keep(place.evaluation, until=newest or 0)
    state = loop.fit(
      state,
      stage.step,
      stage.feed(progress.get('data')),
      config=stage.config,
      log=metrics.MetricsLog(
        place.metrics, step=newest or 0, board=place.board('training')
      ),
      checkpoints=checkpoints,
      stop=stop,
      clock=clock,
      schedule=stage.schedule,
      interlude=stage.interlude,
      name=stage.name,
    )
    return Outcome(state, clock.seconds)
