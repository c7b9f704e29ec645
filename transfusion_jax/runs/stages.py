"""Stages of a run in their work directories: checked, claimed, trained."""

from collections.abc import Callable, Sequence
from typing import Any

from transfusion_jax.core import command
from transfusion_jax.data import inspection, pipeline
from transfusion_jax.runs import build, config
from transfusion_jax.training import (
  checkpoint_reader,
  lock,
  loop,
  mesh,
  preemption,
  processes,
  stage,
  warm_start,
  workdir,
)
from transfusion_jax.training import feed as feed_lib


def check(place: workdir.Workdir, run: config.Run, allowed: Sequence[str] = ()) -> None:
  """Checks that a folder can be this run's, in all of its stages; writes nothing.

  Raises:
    ValueError: as `Workdir.check`; or the steps in it are of another model.
  """
  for nested, _ in of_run(place, run)[1:]:
    _check_autoencoder(place, nested)
  for each, stage_run in of_run(place, run):
    each.check(config.to_dict(stage_run), pipeline.contents(stage_run.data), allowed)
    if checkpoint_reader.steps(each.checkpoints):
      abstract = build.trainer(stage_run, mesh.make(stage_run.mesh)).abstract
      checkpoint_reader.check_state(each.checkpoints, abstract)


def claim(place: workdir.Workdir, run: config.Run, allowed: Sequence[str] = ()) -> None:
  """Makes a folder this run's in all of its stages, which `check` has passed."""
  for each, stage_run in of_run(place, run):
    if processes.leads():
      inspection.announce(stage_run.data)
    each.claim(config.to_dict(stage_run), pipeline.contents(stage_run.data), allowed)


def of_run(
  place: workdir.Workdir, run: config.Run
) -> list[tuple[workdir.Workdir, config.Run]]:
  """The stages of a run in their work directories; the autoencoder's comes last."""
  stages: list[tuple[workdir.Workdir, config.Run]] = [(place, run)]
  if isinstance(run, config.TransfusionRun) and build.trains_autoencoder(run):
    stages.append((workdir.Workdir(place.autoencoder), run.autoencoder.run))
  return stages


def _check_autoencoder(place: workdir.Workdir, nested: workdir.Workdir) -> None:
  """Raises ValueError if a run is under way whose autoencoder has gone."""
  under_way = checkpoint_reader.steps(place.checkpoints)
  if under_way and not checkpoint_reader.steps(nested.checkpoints):
    raise ValueError(
      f'expected the autoencoder that step {under_way[-1]} was trained with under '
      f'{nested.root}, found none; bring a copy back, or begin anew in another '
      '--workdir'
    )


def train(
  run: config.Run,
  trainer: build.Trainer,
  *,
  name: str,
  feed: Callable[[dict[str, Any] | None], feed_lib.Feed],
  callback: loop.Callback,
  place: workdir.Workdir,
  stop: preemption.Stop,
  before: dict[str, float],
  held: lock.Lock,
) -> stage.Outcome:
  """Trains one stage of a run to its last step.

  Args:
    run: what is trained.
    trainer: of the run, on its mesh.
    name: of the stage, in logs.
    feed: the data, from its state.
    callback: called between steps.
    place: its work directory.
    stop: asked after every step.
    before: seconds that were spent before, by account.
    held: the lock of the work directory.

  Raises:
    command.Exit: the run was asked to stop, and did.
  """
  frozen = build.placed_frozen(run, trainer)

  def init(key):
    names = trainer.parts.blueprint.axes
    given = warm_start.read(run.start, trainer.abstract.params, names)
    return trainer.init(key, *given)

  prepared = stage.Stage(
    name=name,
    config=run.train,
    seed=run.seed,
    abstract=trainer.abstract,
    init=init,
    saved_first=bool(run.start.checkpoint),
    step=lambda state, batch: trainer.step(state, batch, *frozen),
    schedule=trainer.parts.schedule,
    callback=callback,
    feed=feed,
  )
  outcome = stage.run(prepared, place, stop, before=before, held=held)
  leave_if_stopped(stop)
  return outcome


def leave_if_stopped(stop: preemption.Stop) -> None:
  """Raises command.Exit if any process was asked to stop."""
  if stop.settled():
    raise command.Exit(
      stop.exit_code, 'stopped and saved; the same command goes on from here'
    )
