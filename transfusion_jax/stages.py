"""What a run does from first step to report: its stages, one after the other."""

import contextlib
import os
import platform
import time
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh

import transfusion_jax
from transfusion_jax import build, config, feeds, results, trained
from transfusion_jax.core import command, log, sealed_json, tree
from transfusion_jax.data import inspection, pipeline
from transfusion_jax.training import (
  checkpoint_reader,
  goodput,
  lock,
  loop,
  mesh,
  preemption,
  processes,
  stage,
  warm_start,
  workdir,
)
from transfusion_jax.training import state as state_lib


def check(place: workdir.Workdir, run: config.Run, allowed: Sequence[str] = ()) -> None:
  """Checks that a folder can be this run's, in all of its stages; writes nothing.

  Raises:
    ValueError: as `Workdir.check`; or the steps in it are of another model.
  """
  for nested, _ in _stages(place, run)[1:]:
    _check_autoencoder(place, nested)
  for each, stage_run in _stages(place, run):
    each.check(config.to_dict(stage_run), pipeline.contents(stage_run.data), allowed)
    if checkpoint_reader.steps(each.checkpoints):
      abstract = build.trainer(stage_run, mesh.make(stage_run.mesh)).abstract
      checkpoint_reader.check_state(each.checkpoints, abstract)


def claim(place: workdir.Workdir, run: config.Run, allowed: Sequence[str] = ()) -> None:
  """Makes a folder this run's in all of its stages, which `check` has passed."""
  for each, stage_run in _stages(place, run):
    if processes.leads():
      inspection.announce(stage_run.data)
    each.claim(config.to_dict(stage_run), pipeline.contents(stage_run.data), allowed)


def _stages(
  place: workdir.Workdir, run: config.Run
) -> list[tuple[workdir.Workdir, config.Run]]:
  """The stages of a run in their work directories; the autoencoder's comes last."""
  stages: list[tuple[workdir.Workdir, config.Run]] = [(place, run)]
  if isinstance(run, config.TransfusionRun) and build.trains_autoencoder(run):
    stages.append((workdir.Workdir(place.autoencoder), run.autoencoder.run))
  return stages


def train_autoencoder(
  run: config.AutoencoderRun,
  place: workdir.Workdir,
  stop: preemption.Stop,
  held: lock.Lock,
) -> float:
  """Trains an autoencoder and measures its latents; the seconds it took in all.

  Args:
    run: what is trained.
    place: its work directory.
    stop: asked after every step.
    held: the lock of the work directory.

  Raises:
    command.Exit: the run was asked to stop, and did.
  """
  devices = mesh.make(run.mesh)
  trainer = build.trainer(run, devices)
  outcome = stage.run(
    _stage(
      'autoencoder',
      run,
      trainer,
      lambda s: feeds.pictures(run, devices, s),
      loop.Interlude(0, lambda _: None),
    ),
    place,
    stop,
    before={},
    held=held,
  )
  _leave_if_stopped(stop)
  params = processes.own(outcome.state.averaged, devices)
  step = int(outcome.state.step)
  if processes.leads() and not _measured(place, step):
    stop.unless_asked(lambda: _measure(run, params, place, step))
  processes.meet('autoencoder measured')
  _leave_if_stopped(stop)
  return sum(outcome.seconds.values())


def _measured(place: workdir.Workdir, step: int) -> bool:
  """Whether the latents of a step were measured; a longer run has others."""
  return place.latents.exists() and sealed_json.read(place.latents).get('step') == step


def _measure(
  run: config.AutoencoderRun, params, place: workdir.Workdir, step: int
) -> None:
  bind = build.autoencoder_blueprint(run).definition.bind
  with command.user_errors():
    measured = feeds.measure(run, bind(params))
  sealed_json.write(place.latents, {'step': step, **measured})
  log.info(f'autoencoder: {measured["psnr"]:.2f} dB PSNR on test pictures')


def train_transfusion(
  run: config.TransfusionRun,
  place: workdir.Workdir,
  stop: preemption.Stop,
  held: lock.Lock,
  *,
  started: float,
  command_line: str,
) -> None:
  """Trains the autoencoder if need be, then the transformer; ends with a report.

  Args:
    run: what is trained.
    place: its work directory.
    stop: asked after every step.
    held: the lock of the work directory.
    started: when the process began, on `time.monotonic`'s clock.
    command_line: for the report.

  Raises:
    command.Exit: the run was asked to stop, and did.
  """
  before = 0.0
  directory = trained.autoencoder_of(run, place)
  if build.trains_autoencoder(run):
    nested = workdir.Workdir(directory)
    with contextlib.ExitStack() as ends:
      with command.user_errors():
        inner = ends.enter_context(lock.Lock(nested.lock))
      before = train_autoencoder(run.autoencoder.run, nested, stop, inner)
  devices = mesh.make(run.mesh)
  frozen = None  # where there are no pictures
  if run.data.image_slots:
    frozen = trained.codec_from(directory, devices, deviation=run.autoencoder.deviation)
  trainer = build.trainer(run, devices)
  interlude = loop.Interlude(
    max(run.evaluation.every, 0), _evaluation(run, place, devices, frozen, stop)
  )
  outcome = stage.run(
    _stage(
      'transfusion',
      run,
      trainer,
      lambda s: feeds.documents(run, devices, frozen, s),
      interlude,
    ),
    place,
    stop,
    before={'before': max(before, time.monotonic() - started)},
    held=held,
  )
  _leave_if_stopped(stop)
  if not run.evaluation.in_training:
    log.info(f'done: {place.root}')
    return
  interlude(outcome.state)
  _leave_if_stopped(stop)
  if processes.leads():
    _report(run, place, _facts(run, trainer), outcome.seconds, command_line)


def _report(
  run: config.TransfusionRun,
  place: workdir.Workdir,
  facts: dict[str, str],
  seconds: dict[str, float],
  command_line: str,
) -> None:
  facts = facts | {'time': goodput.shares(seconds)}
  whole = sum(seconds.values()) + results.seconds_at(place, run.train.steps)
  kept = {'command': command_line, 'seconds': whole, 'facts': facts}
  sealed_json.write(place.facts, kept)
  print(f'report: {results.write_report(place)}')


def _check_autoencoder(place: workdir.Workdir, nested: workdir.Workdir) -> None:
  """Raises ValueError if a run is under way whose autoencoder has gone."""
  under_way = checkpoint_reader.steps(place.checkpoints)
  if under_way and not checkpoint_reader.steps(nested.checkpoints):
    raise ValueError(
      f'expected the autoencoder that step {under_way[-1]} was trained with under '
      f'{nested.root}, found none; bring a copy back, or begin anew in another '
      '--workdir'
    )


def _evaluation(
  run: config.TransfusionRun,
  place: workdir.Workdir,
  devices: Mesh,
  frozen,
  stop: preemption.Stop,
) -> Callable[[state_lib.TrainState], None]:
  """Measures a state, unless that was done; of several processes one is at work.

  It is cut short where that one is asked to stop.
  """
  evaluators = build.evaluators(run, run.evaluation.in_training)
  field = trained.own_field(run)

  def evaluate(state: state_lib.TrainState) -> None:
    step = int(state.step)
    params, codec = processes.own((state.averaged, frozen), devices)

    def measure() -> None:
      names = results.due(run, place, evaluators, step=step, field=field)
      some = {name: evaluators[name] for name in names}
      writer = build.writer(run, params, codec)
      results.evaluate(run, place, writer, some, step=step, field=field)

    if processes.leads():
      stop.unless_asked(measure)

  return evaluate


def _stage(
  name: str, run: config.Run, trainer: build.Trainer, feed, interlude: loop.Interlude
) -> stage.Stage:
  frozen = build.placed_frozen(run, trainer)

  def init(key):
    names = trainer.parts.blueprint.axes
    given = warm_start.read(run.start, trainer.abstract.params, names)
    return trainer.init(key, *given)

  return stage.Stage(
    name=name,
    config=run.train,
    seed=run.seed,
    abstract=trainer.abstract,
    init=init,
    saved_first=bool(run.start.checkpoint),
    step=lambda state, batch: trainer.step(state, batch, *frozen),
    schedule=trainer.parts.schedule,
    interlude=interlude,
    feed=feed,
  )


def _leave_if_stopped(stop: preemption.Stop) -> None:
  if stop.settled():
    raise command.Exit(
      stop.exit_code, 'stopped and saved; the same command goes on from here'
    )


def _facts(run: config.TransfusionRun, trainer: build.Trainer) -> dict[str, str]:
  shapes = trainer.parts.blueprint.shapes
  return {
    'parameters': f'{tree.size(shapes):,}',
    'steps': f'{run.train.steps:,}',
    'rows x positions per step': f'{run.data.rows} x {run.data.row_length}',
    'sampling': f'{run.sampling.solver}, {run.sampling.steps} steps, guidance '
    f'{run.sampling.guidance:g}',
    'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'machine': f'{platform.machine()}, {os.cpu_count()} cores',
    'versions': f'transfusion_jax {transfusion_jax.__version__}, jax {jax.__version__}',
  }
