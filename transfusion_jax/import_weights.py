"""Takes over a trained autoencoder: Stable Diffusion 1, 2, XL, 3 or Flux.

  python -m transfusion_jax.import_weights --weights=FOLDER --workdir=DIR \
    --config=configs/transfusion_160m.py

FOLDER is as the package diffusers saves an `AutoencoderKL`, `config.json` and
`diffusion_pytorch_model.safetensors` (one file, or shards and their index), or a whole
pipeline, whose `vae` is taken. A file may be named as well: `.safetensors` or a file of
PyTorch, in the layout of diffusers or the original one (CompVis), of the autoencoder
alone or of a whole Stable Diffusion. Where no `config.json` lies beside it,
--scaling_factor (and --shift_factor) say by what its latents are multiplied.

DIR is then what `--config.autoencoder.checkpoint` takes. The config is that of the run
which is to use it, or of an autoencoder; its autoencoder's layout is replaced.
"""

import dataclasses
import pathlib
import tempfile

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import config_flags

from transfusion_jax.core import command, paths, sealed_json, tree
from transfusion_jax.models.published import autoencoders
from transfusion_jax.runs import config
from transfusion_jax.training import checkpoint, state, workdir

_WEIGHTS = flags.DEFINE_string('weights', None, 'Folder, or file of weights.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder to be written.')
_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config of the run that is to use it.', lock_config=True
)
_SCALING = command.define_number(
  'scaling_factor',
  None,
  'In place of a config.json beside the weights.',
  low=1e-6,
  high=1e6,
)
_SHIFT = command.define_number(
  'shift_factor', None, 'With --scaling_factor; 0 if not given.', low=-1e6, high=1e6
)


def main() -> None:
  """Reads and checks all, then writes."""
  with command.user_errors():
    if not _WEIGHTS.value or not _WORKDIR.value or _CONFIG.value is None:
      raise ValueError(
        'expected --weights=FOLDER, --workdir=DIR and --config=FILE, found only some; '
        'the config is that of the run which is to use the weights'
      )
    root = paths.local(_WORKDIR.value, '--workdir')
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
      raise ValueError(
        f'expected a new or empty folder for --workdir, found {root} in use; name '
        'another, or take what is there'
      )
    weights = paths.local(_WEIGHTS.value, '--weights')
    found = autoencoders.read(weights, _SCALING.value, _SHIFT.value)
    run = _run(config.parse(_CONFIG.value), found)
    command.output_folder('workdir', str(root.parent))
  _write(root, run, found)
  print(
    f'{root}: {tree.size(found.params):,} parameters of {found.weights}, '
    f'{run.model.latent_channels} channels for every {run.model.factor} x '
    f'{run.model.factor} pixels; train with --config.autoencoder.checkpoint={root} '
    f'--config.autoencoder.run.model.latent_channels={run.model.latent_channels}'
  )


def _run(run: config.Run, found: autoencoders.Published) -> config.AutoencoderRun:
  """The run, or its autoencoder's, with another layout and no average to be kept."""
  run = run.autoencoder.run if isinstance(run, config.TransfusionRun) else run
  return dataclasses.replace(
    run,
    model=found.layout,
    optimizer=dataclasses.replace(run.optimizer, ema_decay=0.0),
  )


def _write(
  root: pathlib.Path, run: config.AutoencoderRun, found: autoencoders.Published
) -> None:
  """Writes all beside the folder; it has its name when all is in it."""
  with tempfile.TemporaryDirectory(prefix=f'.{root.name}.', dir=root.parent) as beside:
    place = workdir.Workdir(pathlib.Path(beside) / root.name)
    place.claim(config.to_dict(run), {})
    _save(place, found)
    constants = {'shift': found.shift.tolist(), 'scale': found.scale.tolist()}
    sealed_json.write(place.latents, constants)
    place.root.rename(root)


def _save(place: workdir.Workdir, found: autoencoders.Published) -> None:
  """A checkpoint of a run that has taken no step and has nothing but parameters."""
  begin = state.TrainState(
    step=jnp.zeros((), jnp.int32),
    params=jax.tree.map(jnp.asarray, found.params),
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
