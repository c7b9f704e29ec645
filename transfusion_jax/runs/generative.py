"""Generative stage: the transformer from its first step to its report."""

import contextlib
import os
import platform
import time
from collections.abc import Callable

import jax
from jax.sharding import Mesh

import transfusion_jax
from transfusion_jax.core import command, log, sealed_json, tree
from transfusion_jax.runs import autoencoder, build, config, restore, run_report, stages
from transfusion_jax.runs import evaluate as evaluate_lib
from transfusion_jax.runs import input as input_lib
from transfusion_jax.training import (
  goodput,
  lock,
  loop,
  mesh,
  preemption,
  processes,
  workdir,
)
from transfusion_jax.training import state as state_lib


def train(
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
  directory = restore.autoencoder_of(run, place)
  if build.trains_autoencoder(run):
    nested = workdir.Workdir(directory)
    with contextlib.ExitStack() as ends:
      with command.user_errors():
        inner = ends.enter_context(lock.Lock(nested.lock))
      before = autoencoder.train(run.autoencoder.run, nested, stop, inner)
  devices = mesh.make(run.mesh)
  frozen = None  # where there are no pictures
  if run.data.image_slots:
    frozen = restore.codec_from(directory, devices, deviation=run.autoencoder.deviation)
  trainer = build.trainer(run, devices)
  callback = loop.Callback(
    max(run.evaluation.every, 0), _evaluation(run, place, devices, frozen, stop)
  )
  outcome = stages.train(
    run,
    trainer,
    name='transfusion',
    feed=lambda state: input_lib.documents(run, devices, frozen, state),
    callback=callback,
    place=place,
    stop=stop,
    before={'before': max(before, time.monotonic() - started)},
    held=held,
  )
  if not run.evaluation.in_training:
    log.info(f'done: {place.root}')
    return
  callback(outcome.state)
  stages.leave_if_stopped(stop)
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
  whole = sum(seconds.values()) + run_report.seconds_at(place, run.train.steps)
  kept = {'command': command_line, 'seconds': whole, 'facts': facts}
  sealed_json.write(place.facts, kept)
  print(f'report: {run_report.write(place)}')


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
  field = restore.own_field(run)

  def evaluate(state: state_lib.TrainState) -> None:
    step = int(state.step)
    params, codec = processes.own((state.averaged, frozen), devices)

    def measure() -> None:
      names = evaluate_lib.due(run, place, evaluators, step=step, field=field)
      some = {name: evaluators[name] for name in names}
      writer = build.writer(run, params, codec)
      evaluate_lib.evaluate(run, place, writer, some, step=step, field=field)

    if processes.leads():
      stop.unless_asked(measure)

  return evaluate


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
