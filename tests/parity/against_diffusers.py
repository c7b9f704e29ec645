"""Imported autoencoders beside the package diffusers.

Run by hand, where PyTorch, diffusers and this package are installed:

  python -m tests.parity.against_diffusers

Makes `AutoencoderKL`s of several layouts with random weights, saves them, reads them as
`import_weights` does, and prints the largest difference of means, log-variances and
decoded pictures, relative to their largest value, in float32. The same weights in
shards and in files of PyTorch have to give the same bits. `--full` adds one of the
size of Stable Diffusion 1.
"""

import argparse
import pathlib
import tempfile

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from transfusion_jax.models import module
from transfusion_jax.models.codecs import kl
from transfusion_jax.models.published import autoencoders

LAYOUTS = {
  'SD 1': {'latent_channels': 4, 'scaling_factor': 0.18215},
  'SDXL': {
    'latent_channels': 4,
    'scaling_factor': 0.13025,
    'latents_mean': [0.1, -0.2, 0.3, 0.0],
    'latents_std': [1.0, 2.0, 0.5, 1.5],
  },
  'SD 3': {
    'latent_channels': 16,
    'scaling_factor': 1.5305,
    'shift_factor': 0.0609,
    'use_quant_conv': False,
    'use_post_quant_conv': False,
  },
  'Flux': {
    'latent_channels': 16,
    'scaling_factor': 0.3611,
    'shift_factor': 0.1159,
    'use_quant_conv': False,
    'use_post_quant_conv': False,
  },
}
SMALL = {'block_out_channels': (16, 32, 64, 64), 'norm_num_groups': 8}
FULL = {'block_out_channels': (128, 256, 512, 512), 'norm_num_groups': 32}
OTHERS = {'zipped.ckpt': True, 'in_a_row.pt': False}
"""Files of PyTorch, and whether they are zip archives."""

SIZES = ((64, 64), (48, 80), (256, 128))


def theirs(layout: dict, folder: str) -> diffusers.AutoencoderKL:
  """A model whose every parameter counts, saved in a folder."""
  torch.manual_seed(0)
  model = diffusers.AutoencoderKL(
    down_block_types=('DownEncoderBlock2D',) * 4,
    up_block_types=('UpDecoderBlock2D',) * 4,
    layers_per_block=2,
    **layout,
  ).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      if parameter.ndim == 1:
        parameter += 0.1 * torch.randn_like(parameter)
  model.save_pretrained(folder)
  folder = pathlib.Path(folder)
  model.save_pretrained(folder / 'shards', max_shard_size='100KB')
  for file, zipped in OTHERS.items():
    (folder / file).mkdir()
    model.save_config(folder / file)
    saved = {'state_dict': model.state_dict(), 'epoch': 1}
    torch.save(saved, folder / file / file, _use_new_zipfile_serialization=zipped)
  return model


def ours(folder: pathlib.Path) -> kl.Autoencoder:
  """The same, read from the folder."""
  found = autoencoders.read(folder)
  for other in ('shards', *OTHERS):
    again = autoencoders.read(folder / other).params
    jax.tree.map(np.testing.assert_array_equal, again, found.params)
  plan = module.blueprint(lambda rngs: kl.Autoencoder(rngs, found.layout))
  return plan.definition.bind(jax.tree.map(jnp.asarray, found.params))


def channels_last(x: torch.Tensor) -> np.ndarray:
  return x.numpy().transpose(0, 2, 3, 1)


def compare(name: str, layout: dict, sizes) -> None:
  """Prints a line for every size."""
  with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    peer = theirs(layout, folder)
    model = ours(pathlib.Path(folder))

    @jax.jit
    def both(model, x):
      posterior = model.encode(x)
      return posterior, model.decode(posterior.mean)

    for size in sizes:
      x = np.random.default_rng(0).uniform(-1, 1, (2, *size, 3)).astype(np.float32)
      moments = peer.encode(torch.tensor(x.transpose(0, 3, 1, 2))).latent_dist
      wanted = {
        'mean': channels_last(moments.mean),
        'log-variance': channels_last(moments.logvar),
        'picture': channels_last(peer.decode(moments.mean).sample),
      }
      posterior, y = both(model, x)
      found = {'mean': posterior.mean, 'log-variance': posterior.log_variance}
      found['picture'] = y
      told = ', '.join(
        f'{key} {np.abs(found[key] - value).max() / np.abs(value).max():.1e}'
        for key, value in wanted.items()
      )
      print(f'{name:12} {size[0]:>3} x {size[1]:<3}: {told}', flush=True)


def main() -> None:
  """Compares all layouts, small ones by default."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--full', action='store_true')
  for name, layout in LAYOUTS.items():
    compare(name, {**SMALL, **layout}, SIZES)
  if parser.parse_args().full:
    compare('SD 1, full', {**FULL, **LAYOUTS['SD 1']}, SIZES[1:2])


if __name__ == '__main__':
  main()
