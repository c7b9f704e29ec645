"""Our distances of sets beside those of torch-fidelity, on the same features.

Run by hand, where PyTorch, this package and torch-fidelity are installed. The latter
has a package `tests` of its own, so that this is run as a file:

  pip install 'transfusion-jax[eval]'
  PYTHONPATH=. python tests/parity/against_torch_fidelity.py

Prints both Fréchet distances and both kernel distances (of the very same subsets) for
sets of several sizes, and by how much they differ. With fewer pictures than features
torch-fidelity takes eigenvalues of a product without full rank; a third column has its
distance with the square root of a symmetric matrix instead.
"""

import numpy as np
import torch
from torch_fidelity import metric_fid, metric_kid

from transfusion_jax.evaluation import frechet

SETS = ((5000, 64, 1.0), (5000, 1280, 1.0), (5000, 1280, 0.01), (500, 1280, 1.0))
"""Pictures, features, and how far apart the two sets are."""
SUBSETS, SIZE = 20, 300


def correlated(random: np.random.Generator, count: int, width: int) -> np.ndarray:
  """Features above 0, some of which go together, as those of networks are."""
  mixing = np.random.default_rng(width).normal(size=(width, width)) / np.sqrt(width)
  scale = np.linspace(0.05, 1, width)
  return np.maximum(random.normal(size=(count, width)) * scale @ mixing, 0)


def symmetric(first: dict, second: dict) -> float:
  """Of torch-fidelity's statistics, by the square root of one covariance."""
  values, vectors = np.linalg.eigh(first['sigma'])
  root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
  inner = np.linalg.eigvalsh(root @ second['sigma'] @ root)
  traces = np.trace(first['sigma']) + np.trace(second['sigma'])
  shift = np.sum((first['mu'] - second['mu']) ** 2)
  return float(shift + traces - 2 * np.sqrt(np.maximum(inner, 0)).sum())


def main() -> None:
  """Prints a line for every pair of sets."""
  random = np.random.default_rng(0)
  for count, width, apart in SETS:
    x = correlated(random, count, width)
    y = correlated(random, count, width) * (1 + 0.2 * apart) + 0.05 * apart
    statistics = [
      metric_fid.fid_features_to_statistics(torch.from_numpy(each)) for each in (x, y)
    ]
    theirs = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    theirs = theirs[metric_fid.KEY_METRIC_FID]
    ours = frechet.distance(*map(frechet.gaussian, (x, y)))
    found = metric_kid.kid_features_to_metric(
      torch.from_numpy(x),
      torch.from_numpy(y),
      kid_subsets=SUBSETS,
      kid_subset_size=SIZE,
      rng_seed=1,
      verbose=False,
    )
    # As theirs draws them: a subset of the first, then one of the second.
    chosen = np.random.RandomState(1)
    pairs = [
      [each[chosen.choice(count, SIZE, replace=False)] for each in (x, y)]
      for _ in range(SUBSETS)
    ]
    kernel = [frechet.discrepancy(*pair) for pair in pairs]
    wanted = found[metric_kid.KEY_METRIC_KID_MEAN], found[metric_kid.KEY_METRIC_KID_STD]
    print(
      f'{count} pictures, {width} features: Fréchet {ours:.9g}, theirs {theirs:.9g}, '
      f'symmetric {symmetric(*statistics):.9g} (differs by {abs(ours - theirs):.1e}); '
      f'kernel {np.mean(kernel):.9g} +- {np.std(kernel):.6g}, theirs {wanted[0]:.9g} '
      f'+- {wanted[1]:.6g} (differs by {abs(np.mean(kernel) - wanted[0]):.1e})',
      flush=True,
    )


if __name__ == '__main__':
  main()
