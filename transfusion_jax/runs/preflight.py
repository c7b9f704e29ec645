"""Finds what a user can mend in a run, before any device works."""

import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from transfusion_jax.core import axes
from transfusion_jax.data import inspection, pipeline
from transfusion_jax.data.latents import manifest
from transfusion_jax.models.adapters import adapter
from transfusion_jax.runs import build, config, restore
from transfusion_jax.training import checkpoint_reader, mesh, warm_start, workdir


def check(run: config.Run) -> None:
  """Checks a run and opens its data; no device is asked for.

  Raises:
    ValueError: one problem or several, each with the way out.
  """
  check_model(run)
  checks: list[Callable[[], None]] = []
  if isinstance(run, config.TransfusionRun):
    checks += [lambda: build.check_vocabulary(run)]
    checks += [lambda: inspection.check(run.data, build.patch_count(run))]
    checks += [lambda: manifest.check(run.data), lambda: _check_autoencoder(run)]
  else:
    checks += [lambda: _check_pictures(run)]
  _check_all(checks)
  if isinstance(run, config.TransfusionRun):
    _check_evaluators(run)  # which try the data that was found good


def check_model(run: config.Run) -> None:
  """Checks what is computed and not what it is computed of.

  Raises:
    ValueError: one problem or several, each with the way out.
  """
  checks = [lambda: build.parts(run), lambda: _check_steps(run)]
  if isinstance(run, config.AutoencoderRun):
    checks += [lambda: _check_autoencoding(run)]
  else:
    checks += [lambda: build.latents(run)]
    if build.trains_autoencoder(run):
      checks += [lambda: check_model(run.autoencoder.run)]
  _check_all(checks)


def _check_all(checks: Sequence[Callable[[], Any]]) -> None:
  problems: list[str] = []
  for each in checks:
    try:
      each()
    except ValueError as error:
      problems += [str(error)] if str(error) not in problems else []
  if problems:
    raise ValueError('; '.join(problems))


def check_files(run: config.Run) -> None:
  """Checks that what training begins with is there; compiling does without.

  Raises:
    ValueError: they are not, or are those of something else.
  """
  build.frozen_params(run)
  if isinstance(run, config.TransfusionRun) and build.trains_autoencoder(run):
    check_files(run.autoencoder.run)


def check_start(run: config.Run, place: workdir.Workdir) -> None:
  """Checks what a fresh run is to begin with; one that goes on needs it no more.

  Raises:
    ValueError: there is no such checkpoint.
  """
  if run.start.checkpoint and not checkpoint_reader.steps(place.checkpoints):
    warm_start.find(run.start)


def check_devices(run: config.Run, devices: Sequence[jax.Device]) -> None:
  """Checks that a run suits the devices, and the autoencoder that it trains first.

  Raises:
    ValueError: as `check_step`.
  """
  check_step(run, devices)
  if isinstance(run, config.TransfusionRun) and build.trains_autoencoder(run):
    check_step(run.autoencoder.run, devices)


def trace(run: config.Run) -> None:
  """Traces the step of every stage without a number, so that a model's own checks speak
  before the first stage has trained for hours.

  Raises:
    ValueError: a stage cannot compute what it is given.
  """
  stages = [run]
  if isinstance(run, config.TransfusionRun) and build.trains_autoencoder(run):
    stages.append(run.autoencoder.run)
  for each in stages:
    devices = mesh.make(each.mesh)
    trainer = build.trainer(each, devices)
    placed = jax.sharding.NamedSharding(devices, axes.BATCH_SPEC)
    batch = build.batch_shapes(each, each.data.rows, placed)
    try:
      trainer.step.eval_shape(trainer.abstract, batch, *trainer.frozen)
    except (ValueError, TypeError) as error:  # JAX says both of shapes
      raise ValueError(f'the step of kind {each.kind!r}: {error}') from error


def check_step(run: config.Run, devices: Sequence[jax.Device]) -> None:
  """Checks that the step of a run suits the devices, which need not be there.

  Raises:
    ValueError: the mesh is of another size, the rows do not divide, or the attention
      is for other devices.
  """
  sizes = mesh.shape(run.mesh, len(devices), mesh.slices(devices))
  named = dict(zip(axes.MESH_AXES, sizes, strict=True))
  parts = math.prod(named[name] for name in axes.ROWS)
  microbatches = run.train.microbatches
  if run.data.rows % (parts * microbatches):
    raise ValueError(
      f'expected data.rows that divide by {parts * microbatches} ({parts} devices, '
      f'{" x ".join(axes.ROWS)}, times {microbatches} micro-batches), found '
      f'{run.data.rows}; change it, --config.mesh or --config.train.microbatches'
    )
  if isinstance(run, config.AutoencoderRun):
    return
  chunks = 2 * named['sequence']
  if chunks > 2 and run.data.row_length % chunks:
    raise ValueError(
      f'expected rows that divide into {chunks} chunks, two for every device along '
      f'mesh.sequence, found row_length={run.data.row_length}; change one of them'
    )
  platform = devices[0].platform
  if run.model.transformer.attention == 'tpu' and platform != 'tpu':
    raise ValueError(
      f"expected TPUs for attention 'tpu', found {platform}; set "
      '--config.model.transformer.attention=xla'
    )


def _check_autoencoder(run: config.TransfusionRun) -> None:
  """Checks the autoencoder that is to be trained, or that the one there suits."""
  if not run.data.image_slots:
    return
  if run.autoencoder.checkpoint:
    _check_trained(run)
  elif run.data.moments:
    raise ValueError(
      'expected autoencoder.checkpoint with data.moments=true, found none: stored '
      'latents are of an autoencoder that is trained; name its work directory'
    )
  else:
    check(run.autoencoder.run)


def _check_trained(run: config.TransfusionRun) -> None:
  """Checks that the autoencoder that is there makes the latents that the run is for."""
  found = restore.autoencoder_in(pathlib.Path(run.autoencoder.checkpoint))[0].model
  wanted = run.autoencoder.run.model
  expected, given = (
    f'latents of {each.factor} pixels a side and {each.latent_channels} channels'
    for each in (wanted, found)
  )
  if expected != given:
    raise ValueError(
      f'expected {expected} from {run.autoencoder.checkpoint}, found {given}; set '
      'patch, multipliers and latent_channels of --config.autoencoder.run.model'
    )


def _check_pictures(run: config.AutoencoderRun) -> None:
  if run.data.moments:
    raise ValueError(
      'expected pictures to train an autoencoder with, found data.moments=true; set it '
      'to false'
    )
  manifest.check(run.data)
  inspection.check_pictures(run.data)


def _check_autoencoding(run: config.AutoencoderRun) -> None:
  height, width, _ = pipeline.pixels(run.data)
  adapter.grid(height, width, run.model.factor)
  if run.measured < 1:
    raise ValueError(
      f'expected measured pictures of at least 1, found {run.measured}; raise it'
    )


def _check_evaluators(run: config.TransfusionRun) -> None:
  build.evaluators(run, run.evaluation.in_training)


def _check_steps(run: config.Run) -> None:
  if run.data.rows % run.train.microbatches:
    raise ValueError(
      f'expected data.rows to divide into train.microbatches, found {run.data.rows} '
      f'and {run.train.microbatches}; change one of them'
    )
  if run.train.steps < 1 or min(run.train.log_every, run.train.checkpoints.every) < 1:
    raise ValueError(
      f'expected positive steps and intervals, found {run.train}; change --config.train'
    )
