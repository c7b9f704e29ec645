"""The autoencoder: pictures to a small grid of Gaussian latents, and back.

A convolutional encoder and decoder of the VQGAN family (Esser et al., 2021) with a
Gaussian posterior in place of the codebook (Rombach et al., 2022, appendix G):

    q(z | x) = N(mean(x), exp(log_variance(x)))                             (1)
    KL(q || N(0, 1)) = (mean^2 + variance - 1 - log_variance) / 2           (2)

The paper's has 8x downsampling, 8 channels and 86M parameters (Transfusion, section
4.1). Layout that is ours for lack of one in the paper: base width 128, multipliers (1,
2, 4, 4), two residual blocks per level, attention in the middle: 83.7M parameters.

With `patch` above 1 the layout is one of windows, which is ours and for small pictures:
a picture enters and leaves as windows, resolutions are joined by one matrix per 2 x 2
window instead of convolutions, latents by one matrix per latent. It is cheaper, and
learns several times faster.

A diffusion model wants latents of unit variance: `measure` finds the constants that
latents are shifted and divided by.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from transfusion_jax.core import tree
from transfusion_jax.models import layers, module
from transfusion_jax.models.adapters import adapter

CHANNELS = 3
"""Channels of an image: red, green, blue."""


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
  """The layout of the autoencoder.

  Attributes:
    channels: width at the highest resolution.
    multipliers: of `channels` at every resolution; each after the first halves the
      height and the width.
    encoder_blocks: residual blocks per resolution in the encoder; 2 in VQGAN.
    decoder_blocks: residual blocks per resolution in the decoder; 3 in VQGAN.
    middle: whether the lowest resolution goes on through a residual block, attention
      and a residual block, as in VQGAN.
    latent_channels: channels of a latent; 8 in the paper.
    latent_convs: whether 1 x 1 convolutions stand before and behind the latents, as in
      VQGAN; Stable Diffusion 3 has none.
    groups: groups of the norms.
    patch: side of the windows that a picture enters and leaves as. 1, as in the paper,
      is the convolutional layout of VQGAN; above 1 windows join resolutions as well.
  """

  channels: int
  multipliers: tuple[int, ...]
  encoder_blocks: int
  decoder_blocks: int
  middle: bool
  latent_channels: int
  latent_convs: bool
  groups: int
  patch: int

  @property
  def factor(self) -> int:
    """Pixels along the side of one latent: 8 in the paper."""
    return self.patch * 2 ** (len(self.multipliers) - 1)

  @property
  def widths(self) -> tuple[int, ...]:
    """Channels at every resolution."""
    return tuple(self.channels * multiplier for multiplier in self.multipliers)


@tree.struct
class Posterior:
  """The Gaussian (1) that a picture is encoded as.

  Attributes:
    mean: what is used as the latent when it is not to be random.
    log_variance: in [-30, 20].
  """

  mean: Float[Array, 'b h w c']
  log_variance: Float[Array, 'b h w c']

  @classmethod
  def of(cls, moments: Float[Array, 'b h w m']) -> 'Posterior':
    """From mean and log-variance side by side; the latter is kept in its bounds."""
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    return cls(mean, jnp.clip(log_variance, -30.0, 20.0))

  @property
  def moments(self) -> Float[Array, 'b h w m']:
    """Mean and log-variance side by side."""
    return jnp.concatenate([self.mean, self.log_variance], axis=-1)

  def sample(self, keys: Key[Array, ' b']) -> Float[Array, 'b h w c']:
    """Draws latents, each row with a key of its own."""
    draw = jax.vmap(lambda key: jax.random.normal(key, self.mean.shape[1:]))
    noise = draw(keys).astype(self.mean.dtype)
    return self.mean + jnp.exp(0.5 * self.log_variance) * noise

  def divergence(self) -> Float[Array, 'b h w c']:
    """The KL divergence (2) of every latent element from a unit Gaussian, in nats."""
    mean = self.mean.astype(jnp.float32)
    logarithm = self.log_variance.astype(jnp.float32)
    return 0.5 * (jnp.square(mean) + jnp.exp(logarithm) - 1.0 - logarithm)


class Autoencoder(module.Module):
  """Encoder and decoder, for any picture whose sides divide by the factor."""

  def __init__(self, rngs: module.Rngs, config: AutoencoderConfig):
    """Raises ValueError where a width does not divide into groups."""
    self.config = config
    self.encoder = Encoder(rngs, config)
    self.decoder = Decoder(rngs, config)

  def encode(self, x: Float[Array, 'b y x 3']) -> Posterior:
    """The posterior of pictures in [-1, 1]; computes in their type.

    Raises:
      ValueError: the sides of the pictures do not divide by the factor.
    """
    height, width = x.shape[1:3]
    factor = self.config.factor
    if height % factor or width % factor:
      raise ValueError(
        f'expected pictures whose sides divide by {factor}, the downsampling of the '
        f'autoencoder, found {height} x {width}; change the size of the pictures, or '
        "the autoencoder's patch or multipliers"
      )
    return Posterior.of(self.encoder(x))

  def decode(self, z: Float[Array, 'b h w c']) -> Float[Array, 'b y x 3']:
    """Pictures of latents, about in [-1, 1] and not clipped."""
    return self.decoder(z)


class Encoder(module.Module):
  """Pictures to means and log-variances, side by side."""

  def __init__(self, rngs: module.Rngs, config: AutoencoderConfig):
    self.patch = config.patch
    widths, groups, outputs = config.widths, config.groups, 2 * config.latent_channels
    windows = config.patch > 1
    self.entry = layers.Conv(rngs, CHANNELS * config.patch**2, widths[0], size=3)
    self.levels = module.List(
      Level(
        rngs,
        width if windows else before,
        width,
        blocks=config.encoder_blocks,
        groups=groups,
      )
      for before, width in zip((widths[0], *widths[:-1]), widths, strict=True)
    )
    self.shrink = module.List(
      Windows(rngs, before, after)
      if windows
      else layers.Conv(rngs, before, before, size=3, stride=2)
      for before, after in itertools.pairwise(widths)
    )
    self.middle = Middle(rngs, widths[-1], groups=groups) if config.middle else None
    self.norm = layers.GroupNorm(widths[-1], groups=groups)
    self.exit = layers.Conv(rngs, widths[-1], outputs, size=1 if windows else 3)
    self.posterior = (
      layers.Conv(rngs, outputs, outputs, size=1) if config.latent_convs else None
    )

  def __call__(self, x: Float[Array, 'b y x 3']) -> Float[Array, 'b h w c']:
    y = self.entry(_windows(x, self.patch))
    for i, level in enumerate(self.levels):
      y = self.shrink[i - 1](y) if i else y
      y = level(y)
    y = y if self.middle is None else self.middle(y)
    y = self.exit(jax.nn.silu(self.norm(y)))
    return y if self.posterior is None else self.posterior(y)


class Decoder(module.Module):
  """Latents to pictures."""

  def __init__(self, rngs: module.Rngs, config: AutoencoderConfig):
    self.patch = config.patch
    widths, groups, inputs = config.widths[::-1], config.groups, config.latent_channels
    windows = config.patch > 1
    self.latent = (
      layers.Conv(rngs, inputs, inputs, size=1) if config.latent_convs else None
    )
    self.entry = layers.Conv(rngs, inputs, widths[0], size=1 if windows else 3)
    self.middle = Middle(rngs, widths[0], groups=groups) if config.middle else None
    self.levels = module.List(
      Level(
        rngs,
        width if windows else before,
        width,
        blocks=config.decoder_blocks,
        groups=groups,
      )
      for before, width in zip((widths[0], *widths[:-1]), widths, strict=True)
    )
    self.enlarge = module.List(
      Pixels(rngs, before, after) if windows else Enlarge(rngs, before)
      for before, after in itertools.pairwise(widths)
    )
    self.norm = layers.GroupNorm(widths[-1], groups=groups)
    self.exit = layers.Conv(rngs, widths[-1], CHANNELS * config.patch**2, size=3)

  def __call__(self, z: Float[Array, 'b h w c']) -> Float[Array, 'b y x 3']:
    return self.pictures(self.features(z))

  def features(self, z: Float[Array, 'b h w c']) -> Float[Array, 'b y x f']:
    """Features that the last layer maps to pixels."""
    y = self.entry(z if self.latent is None else self.latent(z))
    y = y if self.middle is None else self.middle(y)
    for i, level in enumerate(self.levels):
      y = self.enlarge[i - 1](y) if i else y
      y = level(y)
    return jax.nn.silu(self.norm(y))

  def pictures(self, features: Float[Array, 'b h w f']) -> Float[Array, 'b y x 3']:
    """The last layer."""
    return _pixels(self.exit(features), self.patch)

  def gradient_of_pictures(
    self, features: Float[Array, 'b h w f'], gradient: Float[Array, 'b y x 3']
  ) -> Float[Array, 'b k f o']:
    """From a loss's gradient at every picture to that at the last layer's kernel.

    One for every picture, as if it were alone, with a kernel's pixels in a row.
    """
    return self.exit.kernel_gradient(features, _windows(gradient, self.patch))


class Enlarge(module.Module):
  """Doubles height and width: pixels repeated, then a convolution."""

  def __init__(self, rngs: module.Rngs, width: int):
    self.conv = layers.Conv(rngs, width, width, size=3)

  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b y x c']:
    return self.conv(layers.enlarge(x))


class Windows(module.Module):
  """Halves height and width: one matrix for every 2 x 2 window."""

  def __init__(self, rngs: module.Rngs, inputs: int, outputs: int):
    self.conv = layers.Conv(rngs, 4 * inputs, outputs, size=1)

  def __call__(self, x: Float[Array, 'b y x i']) -> Float[Array, 'b h w o']:
    return self.conv(_windows(x, 2))


class Pixels(module.Module):
  """Doubles height and width: one matrix from a pixel to its 2 x 2 window."""

  def __init__(self, rngs: module.Rngs, inputs: int, outputs: int):
    self.conv = layers.Conv(rngs, inputs, 4 * outputs, size=1)

  def __call__(self, x: Float[Array, 'b h w i']) -> Float[Array, 'b y x o']:
    return _pixels(self.conv(x), 2)


class Level(module.Module):
  """The residual blocks of one resolution."""

  def __init__(
    self, rngs: module.Rngs, inputs: int, width: int, *, blocks: int, groups: int
  ):
    self.blocks = module.List(
      layers.ResidualBlock(rngs, width if i else inputs, width, groups=groups)
      for i in range(blocks)
    )

  def __call__(self, x: Float[Array, 'b h w i']) -> Float[Array, 'b h w o']:
    for block in self.blocks:
      x = block(x)
    return x


class Middle(module.Module):
  """Attention over the picture at the lowest resolution, between residual blocks."""

  def __init__(self, rngs: module.Rngs, width: int, *, groups: int):
    self.before = layers.ResidualBlock(rngs, width, width, groups=groups)
    self.attention = layers.ImageAttention(rngs, width, heads=1, groups=groups)
    self.after = layers.ResidualBlock(rngs, width, width, groups=groups)

  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    return self.after(self.attention(self.before(x)))


def measure(
  encode: Callable[[Array], Array], batches: Iterable[Any]
) -> tuple[Float[np.ndarray, ' c'], Float[np.ndarray, ' c']]:
  """Shift and scale: mean and standard deviation per channel of all latents.

  Args:
    encode: from a batch to latents [b, h, w, c], for example a jitted function that
      gives the posterior's mean.
    batches: pictures; the more the better, 10,000 are good.

  Raises:
    ValueError: there are no batches.
  """
  count, mean, squares = 0, np.zeros(()), np.zeros(())
  for batch in batches:
    z = np.asarray(encode(batch), np.float64)
    z = z.reshape(-1, z.shape[-1])
    step = z.mean(axis=0) - mean
    total = count + len(z)
    # Sums of squares about the joint mean (Chan et al., 1979): no cancellation.
    squares = squares + z.var(axis=0) * len(z) + step**2 * (count * len(z) / total)
    mean = mean + step * (len(z) / total)
    count = total
  if not count:
    raise ValueError(
      'expected pictures to measure latents on, found none; give at least one batch'
    )
  # The floor keeps a channel that the autoencoder does not use from dividing by zero.
  return mean, np.maximum(np.sqrt(squares / count), 1e-6)


def _windows(x: Float[Array, 'b y x c'], patch: int) -> Float[Array, 'b h w p']:
  """Every window's pixels as the channels of one pixel."""
  b, height, width, c = x.shape
  windows = adapter.patchify(x, patch)
  return windows.reshape(b, height // patch, width // patch, patch * patch * c)


def _pixels(x: Float[Array, 'b h w p'], patch: int) -> Float[Array, 'b y x c']:
  """The inverse of `_windows`."""
  b, h, w, _ = x.shape
  return adapter.unpatchify(x.reshape(b, h * w, -1), patch, grid=(h, w))
