"""Our LPIPS beside the code of stlpips-pytorch.

Run by hand, where PyTorch, this package and stlpips-pytorch are installed:

  pip install torch torchsummary && pip install --no-deps stlpips-pytorch==0.0.2
  python -m tests.parity.against_stlpips --pictures=FOLDER

Pairs are noise, smooth pictures, and crops of the PNG and JPEG files of a folder, if
one is given, each beside a disturbed copy. Prints the largest relative difference of
every kind and size, and of the gradient, in float32.
"""

import argparse
import pathlib
import sys
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from PIL import Image

from transfusion_jax.models import module
from transfusion_jax.models.codecs import perceptual

for absent in ('torchvision', 'IPython'):  # which it imports and does not need here
  sys.modules.setdefault(absent, mock.MagicMock(spec=types.ModuleType(absent)))
sys.modules['torchvision'].models = None
sys.modules['IPython'].embed = None

from stlpips_pytorch import stlpips  # noqa: E402

SIZES = ((32, 32), (64, 64), (48, 80), (256, 256))
PAIRS = 4


def pictures(folder: pathlib.Path | None, height: int, width: int):
  """Pictures in [-1, 1] by kind, [PAIRS, height, width, 3]."""
  random = np.random.default_rng(height + width)
  found = {'noise': random.uniform(-1, 1, (PAIRS, height, width, 3))}
  y, x = np.mgrid[:height, :width][..., None, None] / 16.0
  a, b, c = random.normal(size=(3, 3, PAIRS))
  found['smooth'] = np.moveaxis(np.sin(a * x + b * y + 3 * c), -1, 0)
  files = [] if folder is None else sorted(folder.iterdir())
  crops = []
  for file in files:
    if file.suffix not in ('.png', '.jpg'):
      continue
    pixels = np.asarray(Image.open(file).convert('RGB'))
    if min(pixels.shape[0] - height, pixels.shape[1] - width) > 0:
      top = random.integers(pixels.shape[0] - height)
      left = random.integers(pixels.shape[1] - width)
      crops.append(pixels[top : top + height, left : left + width] / 127.5 - 1.0)
  if crops:
    found['photographs'] = np.stack(crops)
  return {kind: each.astype(np.float32) for kind, each in found.items()}


def disturbed(x: np.ndarray) -> np.ndarray:
  """The same pictures, blurred to one side and noisy."""
  noise = np.random.default_rng(1).normal(0, 0.1, x.shape)
  blurred = 0.5 * (x + np.roll(x, 1, axis=2)) + noise
  return np.clip(blurred, -1, 1).astype(np.float32)


def main() -> None:
  """Prints one line for every size and kind."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--pictures', type=pathlib.Path)
  folder = parser.parse_args().pictures
  load, cpu = torch.load, {'map_location': 'cpu'}
  with mock.patch.object(torch, 'load', lambda file, **_: load(file, **cpu)):
    theirs = stlpips.LPIPS(net='vgg', variant='shift_tolerant', verbose=False)
  plan = module.blueprint(lambda rngs: perceptual.Perceptual(rngs, perceptual.WIDTHS))
  params = perceptual.read(perceptual.find(''), plan.shapes)
  ours = plan.definition.bind(jax.tree.map(jnp.asarray, params))
  both = jax.jit(
    lambda ours, x, y: (
      ours(x, y),
      jax.grad(lambda y: jnp.sum(ours(x, y)))(y),
    )
  )
  for size in SIZES:
    for kind, x in pictures(folder, *size).items():
      y = disturbed(x)
      found, gradient = (np.asarray(each) for each in both(ours, x, y))
      first, second = (torch.tensor(each.transpose(0, 3, 1, 2)) for each in (x, y))
      second.requires_grad_()
      wanted = theirs(first, second).flatten()
      wanted.sum().backward()
      wanted = wanted.detach().numpy()
      slope = second.grad.numpy().transpose(0, 2, 3, 1)
      print(
        f'{size[0]:>3} x {size[1]:<3} {kind:11} {len(x):>2} pairs, LPIPS '
        f'{wanted.min():.4f} to {wanted.max():.4f}: differs by '
        f'{np.max(np.abs(found / wanted - 1)):.1e}, its gradient by '
        f'{np.linalg.norm(gradient - slope) / np.linalg.norm(slope):.1e}',
        flush=True,
      )


if __name__ == '__main__':
  main()
