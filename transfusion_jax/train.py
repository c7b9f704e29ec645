"""Trains a model: `python -m transfusion_jax.train --config=FILE --workdir=DIR`.

Any field of the config can be changed: `--config.train.steps=100`. The same command
goes on with a run that was stopped; one that differs in what is learnt is refused,
unless `--allow=data.sources` names the field or section. A mixed run trains its
autoencoder first, unless `--config.autoencoder.checkpoint` names one. Runs on emoji
scenes end with a report.

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

import jax
from absl import flags
from ml_collections import config_flags

import transfusion_jax
from transfusion_jax import build, config, feeds, preflight
from transfusion_jax.core import command, log, tree
from transfusion_jax.data import emoji_glyphs, pipeline
from transfusion_jax.evaluation import report, scene_scores
from transfusion_jax.training import (
  mesh,
  metrics,
  preemption,
  processes,
  stage,
  workdir,
)

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
    _stage('autoencoder', run, trainer, lambda s: feeds.pictures(run, devices, s)),
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
  directory = pathlib.Path(run.autoencoder.checkpoint or place.autoencoder)
  if build.trains_autoencoder(run):
    nested = workdir.Workdir(directory)
    with command.user_errors():
      _claim(nested, run.autoencoder.run)
    before = train_autoencoder(run.autoencoder.run, nested, stop)
  devices = mesh.make(run.mesh)
  frozen = None  # where there are no pictures
  if run.data.image_slots:
    frozen = build.codec_from(directory, devices, deviation=run.autoencoder.deviation)
  trainer = build.trainer(run, devices)
  outcome = stage.run(
    _stage(
      'transfusion',
      run,
      trainer,
      lambda s: feeds.documents(run, devices, frozen, s),
    ),
    place,
    stop,
    seconds=max(before, time.monotonic() - started),
  )
  _leave_if_stopped(stop)
  if not run.evaluation.prompts:
    log.info(f'done: {place.root}')
    return
  params, frozen = processes.own((outcome.state.averaged, frozen), devices)
  if processes.leads():
    facts = _facts(run, trainer)
    _report(run, place, directory, build.writer(run, params, frozen), outcome, facts)


def _claim(place: workdir.Workdir, run: config.Run) -> None:
  place.claim(config.to_dict(run), pipeline.contents(run.data), _ALLOW.value)


def _report(run, place, directory, writer, outcome: stage.Outcome, facts) -> None:
  """Evaluates, on the devices of one process, and writes the report."""
  began = time.monotonic()
  log.info('evaluation: drawing and captioning test scenes')
  results = scene_scores.evaluate(writer, run.data.scenes, run.evaluation, run.sampling)
  measured = build.autoencoder_in(directory)[1]
  seconds = outcome.seconds + time.monotonic() - began
  scores = {'autoencoder_psnr': measured.get('psnr'), **results.scores}
  written = report.write(
    place.root,
    title='Transfusion on emoji scenes',
    command=f'python -m transfusion_jax.train {shlex.join(sys.argv[1:])}',
    scores=scores | {'wall_seconds': seconds},
    goals=scene_scores.GOALS,
    galleries=results.galleries,
    curves={
      'transfusion': metrics.read(place.metrics),
      'autoencoder': metrics.read(workdir.Workdir(directory).metrics),
    },
    facts=facts,
    attribution=emoji_glyphs.ATTRIBUTION,
  )
  print(f'report: {written}')


def _stage(name: str, run: config.Run, trainer: build.Trainer, feed) -> stage.Stage:
  frozen = build.placed_frozen(run, trainer)
  return stage.Stage(
    name=name,
    config=run.train,
    seed=run.seed,
    abstract=trainer.abstract,
    init=trainer.init,
    step=lambda state, batch: trainer.step(state, batch, *frozen),
    schedule=trainer.parts.schedule,
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
    'prompts per score': f'{run.evaluation.prompts}',
    'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'machine': f'{platform.machine()}, {os.cpu_count()} cores',
    'versions': f'transfusion_jax {transfusion_jax.__version__}, jax {jax.__version__}',
  }


if __name__ == '__main__':
  command.run(main)
