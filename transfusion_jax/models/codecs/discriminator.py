"""The patch discriminator: which parts of a picture look drawn by the autoencoder.

Convolutions of 4 x 4 pixels, the first ones at stride 2, end in one logit for every
patch (Isola et al., 2017), as VQGAN has it (Esser et al., 2021): 3 layers, 64 channels,
2.8M parameters. It has group norms in place of batch norms, so that a picture is judged
by itself, however rows are grouped or divided over devices.
"""

import dataclasses
import itertools

import jax
from jaxtyping import Array, Float

from transfusion_jax.models import layers, module

WIDEST = 8
"""Most times that the channels multiply."""


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
  """The layout of the discriminator.

  Attributes:
    channels: of the first layer; every further one has twice as many, at most 8 times.
    layers: that halve the height and the width; 3 in VQGAN.
    groups: groups of the norms.
  """

  channels: int
  layers: int
  groups: int


class Discriminator(module.Module):
  """Pictures in [-1, 1] to a logit for every patch: above 0 a picture of the data."""

  def __init__(self, rngs: module.Rngs, config: DiscriminatorConfig):
    widths = [config.channels * min(2**i, WIDEST) for i in range(config.layers + 1)]
    self.entry = layers.Conv(rngs, 3, widths[0], size=4, stride=2)
    self.blocks = module.List(
      Block(rngs, before, after, stride=1 + (i < config.layers), groups=config.groups)
      for i, (before, after) in enumerate(itertools.pairwise(widths), start=1)
    )
    self.exit = layers.Conv(rngs, widths[-1], 1, size=4)

  def __call__(self, x: Float[Array, 'b y x 3']) -> Float[Array, 'b h w']:
    y = _leaky(self.entry(x))
    for block in self.blocks:
      y = block(y)
    return self.exit(y)[..., 0]


class Block(module.Module):
  """Convolution, group norm and a leaky ReLU."""

  def __init__(
    self, rngs: module.Rngs, inputs: int, outputs: int, *, stride: int, groups: int
  ):
    self.conv = layers.Conv(rngs, inputs, outputs, size=4, stride=stride)
    self.norm = layers.GroupNorm(outputs, groups=groups)

  def __call__(self, x: Float[Array, 'b y x i']) -> Float[Array, 'b h w o']:
    return _leaky(self.norm(self.conv(x)))


def _leaky(x: Float[Array, '*b c']) -> Float[Array, '*b c']:
  return jax.nn.leaky_relu(x, 0.2)
