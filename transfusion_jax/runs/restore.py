"""Trained runs in their work directories, and their parameters on whatever devices."""

import dataclasses
import pathlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from transfusion_jax.core import axes, log, sealed_json
from transfusion_jax.generation import writer as writer_lib
from transfusion_jax.models.codecs import codec
from transfusion_jax.runs import build, config
from transfusion_jax.training import checkpoint_reader, workdir
from transfusion_jax.training import state as state_lib

Field = Literal['ema', 'params']
"""Kind of parameters: their moving average, or those of the step."""


def run_in(place: workdir.Workdir) -> config.TransfusionRun:
  """The run that a work directory was claimed by.

  Raises:
    ValueError: there is none, or it neither draws nor writes.
  """
  return transfusion(config.from_dict(read_config(place)), place)


def transfusion(run: config.Run, place: workdir.Workdir) -> config.TransfusionRun:
  """The same run.

  Raises:
    ValueError: it neither draws nor writes, or its autoencoder is of another version.
  """
  if not isinstance(run, config.TransfusionRun):
    raise ValueError(
      f'expected a run that draws and writes, found kind {run.kind!r} in {place.root}; '
      'name the work directory of a mixed run'
    )
  if run.data.image_slots:
    workdir.Workdir(autoencoder_of(run, place)).check_version()
  return run


def read_config(place: workdir.Workdir) -> dict[str, Any]:
  """The config of a run, as plain values; ValueError if there is no run."""
  if not place.config.exists():
    raise ValueError(
      f'expected a run in {place.root}, found no config.json; train one with '
      'python -m transfusion_jax.train'
    )
  return place.read_config()


def for_this_device(run: config.TransfusionRun) -> config.TransfusionRun:
  """A run trained with a kernel for TPUs can be used anywhere."""
  transformer = run.model.transformer
  if transformer.attention != 'tpu' or jax.default_backend() == 'tpu':
    return run
  log.info("attention 'xla' instead of 'tpu': there is no TPU here")
  transformer = dataclasses.replace(transformer, attention='xla')
  return dataclasses.replace(
    run, model=dataclasses.replace(run.model, transformer=transformer)
  )


def own_field(run: config.Run) -> Field:
  """The parameters to sample with: averaged ones, where a run has them."""
  return state_lib.averaged_field(run.optimizer.ema_decay)


def check_field(run: config.Run, field: Field) -> None:
  """Raises ValueError if a run does not keep these parameters."""
  if field == 'ema' and own_field(run) != 'ema':
    raise ValueError(
      'expected a run with averaged parameters for ema, found optimizer.ema_decay=0; '
      'take params'
    )


def writer(
  run: config.TransfusionRun,
  place: workdir.Workdir,
  mesh: Mesh,
  *,
  step: int | None = None,
  field: Field | None = None,
) -> writer_lib.Writer:
  """A trained model with all that turns it into pictures and sentences.

  Args:
    run: that trained it.
    place: its work directory.
    mesh: devices that the parameters are divided over; those that it was trained on
      do not matter.
    step: of the checkpoint; None: the newest.
    field: which parameters; None: `own_field`.

  Raises:
    ValueError: there is no such checkpoint, or no autoencoder.
  """
  frozen = None
  if run.data.image_slots:
    directory = autoencoder_of(run, place)
    frozen = codec_from(directory, mesh, deviation=run.autoencoder.deviation)
  blueprint = build.parts(run).blueprint
  places = axes.shardings(mesh, blueprint.axes, blueprint.shapes)
  wanted = {
    field or own_field(run): checkpoint_reader.abstract(blueprint.shapes, places)
  }
  restored = checkpoint_reader.read(place.checkpoints, wanted, step)
  return build.writer(run, restored.state.averaged, frozen)


def autoencoder_of(run: config.TransfusionRun, place: workdir.Workdir) -> pathlib.Path:
  """The work directory of a run's autoencoder."""
  return pathlib.Path(run.autoencoder.checkpoint or place.autoencoder)


def codec_from(directory: pathlib.Path, mesh: Mesh, *, deviation: float) -> codec.Codec:
  """A trained autoencoder, its averaged parameters whole on every device.

  Args:
    directory: its work directory.
    mesh: the devices.
    deviation: standard deviation that its latents are scaled to.

  Raises:
    ValueError: the folder does not hold a finished autoencoder.
  """
  run, measured = autoencoder_in(directory)
  blueprint = build.autoencoder_blueprint(run)
  whole = axes.replicated(mesh)
  wanted = checkpoint_reader.abstract(
    blueprint.shapes, jax.tree.map(lambda _: whole, blueprint.shapes)
  )
  place = workdir.Workdir(directory)
  kept = state_lib.averaged_field(run.optimizer.ema_decay)
  restored = checkpoint_reader.read(place.checkpoints, {kept: wanted}, whole=False)
  return codec.Codec(
    model=blueprint.definition.bind(restored.state.averaged),
    shift=jax.device_put(jnp.asarray(measured['shift'], jnp.float32), whole),
    scale=jax.device_put(
      jnp.asarray(measured['scale'], jnp.float32) / deviation, whole
    ),
  )


def autoencoder_in(
  directory: pathlib.Path,
) -> tuple[config.AutoencoderRun, dict[str, Any]]:
  """The run that trained an autoencoder, and what was measured of it.

  Raises:
    ValueError: the folder does not hold a finished autoencoder, or one of another
      version.
  """
  place = workdir.Workdir(directory)
  if not place.latents.exists() or not place.config.exists():
    raise ValueError(
      f'expected a trained autoencoder in {directory}, found no config.json and '
      'latents.json; train one with --config=configs/emoji_autoencoder.py, or leave '
      'autoencoder.checkpoint empty'
    )
  run = config.from_dict(place.read_config())
  if not isinstance(run, config.AutoencoderRun):
    raise ValueError(
      f'expected an autoencoder in {directory}, found a run of kind {run.kind!r}; name '
      'the work directory of an autoencoder'
    )
  return run, sealed_json.read(place.latents)
