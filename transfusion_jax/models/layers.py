"""Small layers shared by the transformer, the adapters and the autoencoder.

Every layer takes the compute type from its input: parameters are kept in float32 and
cast where they are used, so that bfloat16 compute is a matter of casting the input.
"""

import itertools
import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from transfusion_jax.core import axes, sharding
from transfusion_jax.models import module
from transfusion_jax.ops import attention, context, norm


def look_up(
  table: module.Weight, tokens: Int[Array, 'b t'], dtype: DTypeLike
) -> Float[Array, 'b t e']:
  """Rows of a table [v, e], in the type of the activations.

  Cast after the look-up: the gradient of a token that stands often is added up in
  float32. On a mesh every device looks up its share of the width for the rows of
  its whole fsdp group, and what then goes between devices is vectors, not the table.
  """
  outer = axes.ROWS[:-1]
  x = table[...][sharding.divided(tokens, outer, 'sequence')].astype(dtype)
  return sharding.positions(sharding.divided(x, outer, 'sequence', 'fsdp'))


def project(
  x: Float[Array, '*b i'], matrix: Float[Array, 'i o']
) -> Float[Array, '*b o']:
  """The product of the last axis of `x` with a matrix.

  On one device the other axes are made one: XLA on a CPU is slower where it is left to
  find out. A compiler that divides them between devices has to see them apart.
  """
  if sharding.divides():
    return jnp.einsum('...i,io->...o', x, matrix)
  return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], -1)


class RMSNorm(module.Module):
  """Root-mean-square norm with a learned gain (Zhang and Sennrich, 2019)."""

  def __init__(self, width: int, *, epsilon: float):
    self.gain = module.constant(1.0, norm=width)
    self.epsilon = epsilon

  def __call__(self, x: Float[Array, '*b e']) -> Float[Array, '*b e']:
    return norm.rms_norm(x, self.gain[...], epsilon=self.epsilon)


class Linear(module.Module):
  """A matrix and, by choice, a bias; `axes` name the matrix's two axes."""

  def __init__(
    self,
    rngs: module.Rngs,
    inputs: int,
    outputs: int,
    *,
    axes: tuple[str, str],
    scale: float = 1.0,
    bias: bool = True,
  ):
    shape = {axes[0]: inputs, axes[1]: outputs}
    self.matrix = module.weight(rngs, scale=scale, fan_in=inputs, **shape)
    self.bias = module.constant(0.0, **{axes[1]: outputs}) if bias else None

  def __call__(self, x: Float[Array, '*b i']) -> Float[Array, '*b o']:
    y = project(x, module.cast(self.matrix, x.dtype))
    return y if self.bias is None else _shift(y, self.bias)


class Conv(module.Module):
  """A square convolution over [b, h, w, c]; the width is kept at stride 1."""

  def __init__(
    self,
    rngs: module.Rngs,
    inputs: int,
    outputs: int,
    *,
    size: int,
    stride: int = 1,
    scale: float = 1.0,
  ):
    self.stride = stride
    self.kernel = module.weight(
      rngs,
      scale=scale,
      fan_in=size * size * inputs,
      conv__y=size,
      conv__x=size,
      channels_in=inputs,
      channels_out=outputs,
    )
    self.bias = module.constant(0.0, channels_out=outputs)

  def __call__(self, x: Float[Array, 'b h w i']) -> Float[Array, 'b y x o']:
    y = jax.lax.conv_general_dilated(
      x,
      module.cast(self.kernel, x.dtype),
      window_strides=(self.stride, self.stride),
      padding='SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return _shift(y, self.bias)

  def kernel_gradient(
    self, x: Float[Array, 'b h w i'], gradient: Float[Array, 'b h w o']
  ) -> Float[Array, 'b k i o']:
    """The kernel's gradient of every row, for one of the output; at stride 1."""
    assert self.stride == 1
    size, (h, w) = self.kernel.shape[0], x.shape[1:3]
    before = (size - 1) // 2
    around = (before, size - 1 - before)
    x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    shifted = (
      x[:, i : i + h, j : j + w] for i, j in itertools.product(range(size), repeat=2)
    )
    pixels = [jnp.einsum('bhwi,bhwo->bio', each, gradient) for each in shifted]
    return jnp.stack(pixels, axis=1)


class GroupNorm(module.Module):
  """Group norm over [b, h, w, c] (Wu and He, 2018), computed in float32."""

  def __init__(self, channels: int, *, groups: int, epsilon: float = 1e-6):
    if channels % groups:
      raise ValueError(
        f'expected channels that divide into {groups} groups, found {channels}; '
        'change the widths or the number of groups'
      )
    self.gain = module.constant(1.0, norm=channels)
    self.bias = module.constant(0.0, norm=channels)
    self.groups, self.epsilon = groups, epsilon

  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    gain, bias = self.gain[...], self.bias[...]
    return norm.group_norm(x, gain, bias, groups=self.groups, epsilon=self.epsilon)


def _shift(y: Float[Array, '*b c'], bias: module.Weight) -> Float[Array, '*b c']:
  """Adds a bias to the last axis in `y`'s type."""
  return y + jnp.expand_dims(module.cast(bias, y.dtype), tuple(range(y.ndim - 1)))


def sinusoid(t: Float[Array, '*b'], width: int) -> Float[Array, '*b {width}']:
  """Sinusoidal features of a noise level in [0, 1] (Ho et al., 2020, appendix B).

  The level is scaled to 1000 steps; wavelengths run from 2 pi to 10,000 * 2 pi.
  """
  steps = jnp.arange(width // 2, dtype=jnp.float32).reshape((1,) * t.ndim + (-1,))
  frequency = jnp.exp(steps * (-math.log(1e4) / (width // 2)))
  angle = 1000.0 * t[..., None] * frequency
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class TimeEmbedding(module.Module):
  """Noise level -> sinusoid -> linear -> SiLU -> linear (Nichol and Dhariwal, 2021)."""

  def __init__(self, rngs: module.Rngs, *, features: int, width: int):
    self.features = features
    self.inner = Linear(rngs, features, width, axes=('time', 'mlp'))
    self.outer = Linear(rngs, width, width, axes=('mlp', 'embed'))

  def __call__(self, t: Float[Array, '*b']) -> Float[Array, '*b e']:
    return self.outer(jax.nn.silu(self.inner(sinusoid(t, self.features))))


class ResidualBlock(module.Module):
  """Norm, SiLU, convolution, twice, beside a shortcut; the time enters as a bias.

  The last convolution starts at zero, so that the block starts as its shortcut. With
  `time`, a projection of that many features is added between the two convolutions (Ho
  et al., 2020, appendix B): the norms stay regular ones.
  """

  def __init__(
    self,
    rngs: module.Rngs,
    inputs: int,
    outputs: int,
    *,
    groups: int,
    time: int | None = None,
  ):
    self.norm_in = GroupNorm(inputs, groups=groups)
    self.conv_in = Conv(rngs, inputs, outputs, size=3)
    self.time = (
      None
      if time is None
      else Linear(rngs, time, outputs, axes=('embed', 'channels_out'))
    )
    self.norm_out = GroupNorm(outputs, groups=groups)
    self.conv_out = Conv(rngs, outputs, outputs, size=3, scale=0.0)
    self.shortcut = None if inputs == outputs else Conv(rngs, inputs, outputs, size=1)

  def __call__(
    self, x: Float[Array, 'b h w i'], time: Float[Array, 'b f'] | None = None
  ) -> Float[Array, 'b h w o']:
    y = self.conv_in(jax.nn.silu(self.norm_in(x)))
    if self.time is not None:
      y = y + self.time(jax.nn.silu(time)).astype(y.dtype)[:, None, None]
    y = self.conv_out(jax.nn.silu(self.norm_out(y)))
    return y + (x if self.shortcut is None else self.shortcut(x))


class ImageAttention(module.Module):
  """Residual self-attention of all pixels of an image (Ho et al., 2020, appendix B).

  The output projection starts at zero, so that the layer starts as the identity.
  `backend` is that of the attention; see `context.attend_all`.
  """

  def __init__(
    self,
    rngs: module.Rngs,
    channels: int,
    *,
    heads: int,
    groups: int,
    backend: attention.Backend = 'xla',
  ):
    self.heads, self.backend = heads, backend
    self.norm = GroupNorm(channels, groups=groups)
    axes = ('channels_in', 'heads')
    self.query = Linear(rngs, channels, channels, axes=axes)
    self.key = Linear(rngs, channels, channels, axes=axes)
    self.value = Linear(rngs, channels, channels, axes=axes)
    self.out = Linear(rngs, channels, channels, axes=axes[::-1], scale=0.0)

  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    b, h, w, c = x.shape
    y = self.norm(x).reshape(b, h * w, c)
    q, k, v = (self._heads(of(y)) for of in (self.query, self.key, self.value))
    y = context.attend_all(q, k, v, backend=self.backend)
    return x + self.out(jnp.swapaxes(y, 1, 2).reshape(b, h * w, c)).reshape(x.shape)

  def _heads(self, y: Float[Array, 'b n c']) -> Float[Array, 'b h n d']:
    b, n, c = y.shape
    return jnp.swapaxes(y.reshape(b, n, self.heads, c // self.heads), 1, 2)


def enlarge(x: Float[Array, 'b h w c']) -> Float[Array, 'b y x c']:
  """Twice the height and width, every pixel repeated (nearest neighbour)."""
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
