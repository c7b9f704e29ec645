"""Takes over a trained autoencoder: Stable Diffusion 1, 2, XL, 3 or Flux.

  python -m transfusion_jax.import_weights --weights=FOLDER --workdir=DIR \
    --config=configs/transfusion_160m.py

FOLDER is as the package diffusers saves an `AutoencoderKL`: `config.json` and
`diffusion_pytorch_model.safetensors` (or name the `.safetensors`, beside which the
other lies). DIR is then what `--config.autoencoder.checkpoint` takes. The config is
that of the run which is to use it, or of an autoencoder; its autoencoder's layout is
replaced.
"""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import safetensors
from absl import flags
from ml_collections import config_flags
from safetensors import numpy as safetensors_numpy

from transfusion_jax import build, config
from transfusion_jax.core import command, sealed_json, tree
from transfusion_jax.models import module, stable_diffusion
from transfusion_jax.training import checkpoint, state, workdir

_WEIGHTS = flags.DEFINE_string('weights', None, 'Folder, or .safetensors file.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder to be written.')
_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config of the run that is to use it.', lock_config=True
)

WEIGHTS, SIZES = 'diffusion_pytorch_model.safetensors', 'config.json'


def main() -> None:
  """Reads and checks all, then writes."""
  with command.user_errors():
    if not _WEIGHTS.value or not _WORKDIR.value or _CONFIG.value is None:
      raise ValueError(
        'expected --weights=FOLDER, --workdir=DIR and --config=FILE, found only some; '
        'the config is that of the run which is to use the weights'
      )
    weights = pathlib.Path(_WEIGHTS.value)
    weights = weights / WEIGHTS if weights.is_dir() else weights
    sizes = _sizes(weights.parent / SIZES)
    run = _run(config.parse(_CONFIG.value), sizes)
    params = _params(weights, run)
    place = workdir.at(_WORKDIR.value)
    if place.checkpoints.exists():
      raise ValueError(
        f'expected a new --workdir, found checkpoints in {place.root}; name another'
      )
    place.claim(config.to_dict(run), {})
  _write(place, params)
  shift, scale = stable_diffusion.scale(sizes)
  constants = {'shift': shift.tolist(), 'scale': scale.tolist()}
  sealed_json.write(place.latents, constants)
  print(
    f'{place.root}: {tree.size(params):,} parameters, {run.model.latent_channels} '
    f'channels for every {run.model.factor} x {run.model.factor} pixels; train with '
    f'--config.autoencoder.checkpoint={place.root} '
    f'--config.autoencoder.run.model.latent_channels={run.model.latent_channels}'
  )


def _sizes(file: pathlib.Path) -> dict[str, Any]:
  if not file.is_file():
    raise ValueError(
      f'expected {file} beside the weights, found none; it says how large they are'
    )
  return json.loads(file.read_text())


def _run(run: config.Run, sizes: dict[str, Any]) -> config.AutoencoderRun:
  """The run, or its autoencoder's, with another layout and no average to be kept."""
  run = run.autoencoder.run if isinstance(run, config.TransfusionRun) else run
  return dataclasses.replace(
    run,
    model=stable_diffusion.config(sizes),
    optimizer=dataclasses.replace(run.optimizer, ema_decay=0.0),
  )


def _params(weights: pathlib.Path, run: config.AutoencoderRun) -> module.Params:
  if not weights.is_file():
    raise ValueError(f'expected weights in {weights}, found no such file; name another')
  try:
    tensors = safetensors_numpy.load_file(weights)
  except safetensors.SafetensorError as error:
    raise ValueError(
      f'expected a .safetensors file, found {weights} ({error}); name another'
    ) from error
  shapes = build.autoencoder_blueprint(run).shapes
  return stable_diffusion.params(tensors, shapes, source=weights.name)


def _write(place: workdir.Workdir, params: module.Params) -> None:
  """A checkpoint of a run that has taken no step and has nothing but parameters."""
  begin = state.TrainState(
    step=jnp.zeros((), jnp.int32),
    params=jax.tree.map(jnp.asarray, params),
    ema={},
    opt_state={},
    key=jax.random.key(0),
    norm=jnp.zeros((), jnp.float32),
  )
  with checkpoint.Checkpoints(place.checkpoints, checkpoint.ONE) as checkpoints:
    checkpoints.save(begin, {})
    checkpoints.wait()
  if checkpoints.trouble:
    raise command.Exit(
      2, f'error: expected to write the weights, found {checkpoints.trouble}'
    )


if __name__ == '__main__':
  command.run(main)
