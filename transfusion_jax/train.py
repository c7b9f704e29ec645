"""Trains a model: `python -m transfusion_jax.train --config=FILE --workdir=DIR`.

Any field of the config can be changed: `--config.train.steps=100`. The same command
goes on with a run that was stopped; one that differs in what is learnt is refused,
unless `--allow=data.sources` names the field or section. A mixed run trains its
autoencoder first, unless `--config.autoencoder.checkpoint` names one. With evaluators
it ends with a report; `python -m transfusion_jax.evaluate` goes on from there.

On several hosts the same command runs on each with `--distributed`, and DIR is a folder
that all of them see. On a slice of a TPU pod:

  gcloud compute tpus tpu-vm ssh NAME --worker=all --command="
    python -m transfusion_jax.train --distributed --config=FILE --workdir=DIR"

`python -m launch.local` starts several processes on one machine, which join without the
flag. A run may go on with another number of processes than it was stopped with.
"""

import os
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Callable

import jax
from absl import flags
from jax.sharding import Mesh
from ml_collections import config_flags

import transfusion_jax
from transfusion_jax import build, config, feeds, preflight, results, trained
from transfusion_jax.core import command, log, tree
from transfusion_jax.data import pipeline
from transfusion_jax.training import (
  loop,
  mesh,
  preemption,
  processes,
  stage,
  workdir,
)
from transfusion_jax.training import state as state_lib

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file, for example configs/emoji_scenes.py.', lock_config=True
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder for all that the run writes.')
_ALLOW = flags.DEFINE_list(
  'allow', [], 'Fields that may differ from what the run was begun with.'
)
_DISTRIBUTED = flags.DEFINE_boolean(
  'distributed', False, 'Join the other hosts, which JAX finds (Cloud TPU, Slurm).'
)


def main() -> None:
  """Checks everything a user can get wrong, then trains."""
  started = time.monotonic()
  with command.user_errors():
    if _CONFIG.value is None or not _WORKDIR.value:
      raise ValueError(
        'expected --config=FILE and --workdir=DIR, found only one or none; for example '
        '--config=configs/emoji_scenes.py --workdir=runs/emoji_scenes'
      )
    run = config.parse(_CONFIG.value)
    preflight.check(run)
    preflight.check_files(run)
    mesh.join(_DISTRIBUTED.value)
  if not processes.leads():
    log.quiet()
  with preemption.Stop() as stop:
    with command.user_errors():
      preflight.check_devices(run, jax.devices())
      feeds.check_latents(run)
      place = workdir.Workdir(pathlib.Path(_WORKDIR.value))
      _claim(place, run)
    if isinstance(run, config.AutoencoderRun):
      train_autoencoder(run, place, stop)
    else:
      train_transfusion(run, place, stop, started)


def train_autoencoder(
  run: config.AutoencoderRun, place: workdir.Workdir, stop: preemption.Stop
) -> float:
  """Trains an autoencoder and measures its latents; the seconds it took in all."""
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
    seconds=0.0,
  )
  _leave_if_stopped(stop)
  params = processes.own(outcome.state.averaged, devices)
  if processes.leads() and not place.latents.exists():
    bind = build.autoencoder_blueprint(run).definition.bind
    with command.user_errors():
      measured = feeds.measure(run, bind(params))
    workdir.write_json(place.latents, measured)
    log.info(f'autoencoder: {measured["psnr"]:.2f} dB PSNR on test pictures')
  processes.meet('autoencoder measured')
  return outcome.seconds


def train_transfusion(
  run: config.TransfusionRun,
  place: workdir.Workdir,
  stop: preemption.Stop,
  started: float,
) -> None:
  """Trains the autoencoder if need be, then the transformer; ends with a report."""
  before = 0.0
  directory = trained.autoencoder_of(run, place)
  if build.trains_autoencoder(run):
    nested = workdir.Workdir(directory)
    with command.user_errors():
      _claim(nested, run.autoencoder.run)
    before = train_autoencoder(run.autoencoder.run, nested, stop)
  devices = mesh.make(run.mesh)
  frozen = None  # where there are no pictures
  if run.data.image_slots:
    frozen = trained.codec_from(directory, devices, deviation=run.autoencoder.deviation)
  trainer = build.trainer(run, devices)
  evaluate = _evaluation(run, place, devices, frozen)
  every = run.evaluation.every
  outcome = stage.run(
    _stage(
      'transfusion',
      run,
      trainer,
      lambda s: feeds.documents(run, devices, frozen, s),
      loop.Interlude(max(every, 0), evaluate),
    ),
    place,
    stop,
    seconds=max(before, time.monotonic() - started),
  )
  _leave_if_stopped(stop)
  if every < 0 or not run.evaluation.evaluators:
    log.info(f'done: {place.root}')
    return
  evaluate(outcome.state)
  if processes.leads():
    seconds = outcome.seconds + results.seconds_at(place, run.train.steps)
    command_line = f'python -m transfusion_jax.train {shlex.join(sys.argv[1:])}'
    facts = _facts(run, trainer)
    kept = {'command': command_line, 'seconds': seconds, 'facts': facts}
    workdir.write_json(place.facts, kept)
    print(f'report: {results.write_report(place)}')


def _evaluation(
  run: config.TransfusionRun, place: workdir.Workdir, devices: Mesh, frozen
) -> Callable[[state_lib.TrainState], None]:
  """Measures a state, unless that was done; of several processes one is at work."""
  evaluators = build.evaluators(run, run.evaluation.evaluators)
  field = trained.own_field(run)

  def evaluate(state: state_lib.TrainState) -> None:
    step = int(state.step)
    params, codec = processes.own((state.averaged, frozen), devices)
    if processes.leads():
      names = results.due(run, place, evaluators, step=step, field=field)
      some = {name: evaluators[name] for name in names}
      writer = build.writer(run, params, codec)
      results.evaluate(run, place, writer, some, step=step, field=field)

  return evaluate


def _claim(place: workdir.Workdir, run: config.Run) -> None:
  place.claim(config.to_dict(run), pipeline.contents(run.data), _ALLOW.value)


def _stage(
  name: str, run: config.Run, trainer: build.Trainer, feed, interlude: loop.Interlude
) -> stage.Stage:
  frozen = build.placed_frozen(run, trainer)
  return stage.Stage(
    name=name,
    config=run.train,
    seed=run.seed,
    abstract=trainer.abstract,
    init=trainer.init,
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


if __name__ == '__main__':
  command.run(main)
