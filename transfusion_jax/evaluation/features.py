"""Networks whose features tell sets of pictures apart.

A distance of features belongs to its network. Only that of Inception v3 (Heusel et al.,
2017), with its own weights and its own way to resize pictures, is the FID of papers;
every other name says which network it is of, and compares with itself alone.
"""

import dataclasses
import functools
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, UInt8

from transfusion_jax.core import paths
from transfusion_jax.evaluation import extras
from transfusion_jax.models import module
from transfusion_jax.models.published import efficientnet


@dataclasses.dataclass(frozen=True)
class FeaturesConfig:
  """Choice of the network that computes features of images.

  Attributes:
    kind: 'efficientnet_lite0', 1,280 features, comes with a package; 'inception' is
      torch-fidelity's port of the network of FID, 2,048 features.
    weights: their file, in PyTorch's format; empty for those of the package.
  """

  kind: Literal['efficientnet_lite0', 'inception']
  weights: str

  def __post_init__(self):
    weights = paths.anywhere(self.weights, 'features.weights')
    object.__setattr__(self, 'weights', weights)


@runtime_checkable
class Features(Protocol):
  """A network."""

  distance: str  # what the Fréchet distance of its features is called
  kernel: str  # what their kernel distance is called

  def __call__(
    self, pictures: UInt8[np.ndarray, 'b h w 3']
  ) -> Float32[np.ndarray, 'b f']:
    """Features of every picture."""
    ...


def make(config: FeaturesConfig) -> Features:
  """The network of a config, not yet on a device.

  Raises:
    ValueError: its package or its weights are not there.
  """
  kinds = {'efficientnet_lite0': EfficientNetLite0, 'inception': Inception}
  return kinds[config.kind](config.weights)


class EfficientNetLite0:
  """EfficientNet-Lite0: offline, and of its own kind."""

  distance, kernel = 'frechet_efficientnet_lite0', 'kernel_efficientnet_lite0'

  def __init__(self, weights: str):
    """Reads the weights; ValueError if they are not there."""
    self._plan = module.blueprint(efficientnet.EfficientNet)
    self._params = efficientnet.read(efficientnet.find(weights), self._plan.shapes)

  def __call__(
    self, pictures: UInt8[np.ndarray, 'b h w 3']
  ) -> Float32[np.ndarray, 'b f']:
    return np.asarray(_resized_features(self._network, pictures))

  @functools.cached_property
  def _network(self) -> efficientnet.EfficientNet:
    return self._plan.definition.bind(jax.tree.map(jnp.asarray, self._params))


@jax.jit
def _resized_features(network: efficientnet.EfficientNet, pictures: jax.Array):
  """Pictures whole, resized bicubically, and with antialiasing where they shrink."""
  size = efficientnet.SIZE
  shape = (pictures.shape[0], size, size, 3)
  pixels = jax.image.resize(pictures.astype(jnp.float32), shape, 'cubic')
  return network(jnp.clip(pixels, 0.0, 255.0))


class Inception:
  """Inception v3 as FID has it: pictures are resized by torch-fidelity, bilinearly."""

  distance, kernel = 'fid', 'kid'

  def __init__(self, weights: str):
    """Checks package and file; ValueError if one is not there."""
    extras.need('torch_fidelity', 'the features of inception')
    self._weights = extras.file(
      weights,
      'the weights of Inception for FID (pt_inception-2015-12-05-6726825d.pth, or '
      'weights-inception-2015-12-05-6726825d.pth of torch-fidelity)',
    )

  def __call__(
    self, pictures: UInt8[np.ndarray, 'b h w 3']
  ) -> Float32[np.ndarray, 'b f']:
    import torch

    device = next(self._network.parameters()).device
    channels_first = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))
    (found,) = self._network(torch.from_numpy(channels_first).to(device))
    return found.cpu().numpy()

  @functools.cached_property
  def _network(self):
    import torch
    from torch_fidelity import feature_extractor_inceptionv3

    network = feature_extractor_inceptionv3.FeatureExtractorInceptionV3(
      'inception-v3-compat',
      ['2048'],
      feature_extractor_weights_path=str(self._weights),
    )
    return network.to('cuda' if torch.cuda.is_available() else 'cpu')
