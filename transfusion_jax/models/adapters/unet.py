"""The U-Net image adapter: half a U-Net before the transformer, half a one after it.

The down half turns latents into patches for the transformer, the up half turns hidden
states into the prediction and is handed the features of every block of the down half:

    patches, skip = down(x_t, t),   prediction = up(hidden, t, skip)        (1)

(Transfusion, section 3.3; LMFusion, eqs. 6 and 14). The blocks are those of Nichol and
Dhariwal (2021): residual blocks, each followed by attention within the picture, a
stride-2 convolution between resolutions. As the paper asks, norms are regular ones
(its footnote 7); the noise level enters every residual block as a bias instead.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transfusion_jax.models import layers, module
from transfusion_jax.models.adapters import adapter
from transfusion_jax.ops import attention

Skip = tuple[Float[Array, 'b i _ _ _'], ...]


@dataclasses.dataclass(frozen=True)
class UNetConfig:
  """The U-Net adapter; every resolution after the first doubles the patch size.

  Attributes:
    widths: channels at each resolution, from that of the latents to that of the grid of
      patches. Paper: none given; (512, 1152) has 0.26B parameters
      of its 0.27B.
    blocks: residual blocks per resolution on the way down; one more on the way up,
      which takes what the resolution was entered with.
    groups: groups of the norms; 1 is layer norm over the whole picture.
    head_dim: channels of an attention head.
    time_features: width of the noise level's sinusoid, even.
  """

  widths: tuple[int, ...]
  blocks: int
  groups: int
  head_dim: int
  time_features: int

  @property
  def patch(self) -> int:
    """Latent pixels along a patch's side: 1, 2, 4 or 8 in the paper."""
    return 2 ** (len(self.widths) - 1)


class UNet(module.Module):
  """Both halves (1), for any picture whose sides divide by the patch size."""

  def __init__(
    self,
    rngs: module.Rngs,
    config: UNetConfig,
    *,
    channels: int,
    embed: int,
    backend: attention.Backend = 'xla',
  ):
    """A U-Net that starts with random weights.

    Args:
      rngs: for them.
      config: sizes.
      channels: of the latents.
      embed: width of the transformer.
      backend: of the attention within pictures.

    Raises:
      ValueError: a width does not divide into groups or heads.
    """
    _check(config)
    self.config = config
    widths, time = config.widths, 4 * config.widths[0]
    self.time = layers.TimeEmbedding(rngs, features=config.time_features, width=time)
    self.entry = layers.Conv(rngs, channels, widths[0], size=3)
    self.down = module.List(
      Down(
        *(rngs, config, backend),
        inputs=inputs,
        width=width,
        resample=i + 1 < len(widths),
      )
      for i, (inputs, width) in enumerate(
        zip((widths[0], *widths[:-1]), widths, strict=True)
      )
    )
    self.inward = layers.Linear(rngs, widths[-1], embed, axes=('channels_out', 'embed'))
    self.outward = layers.Linear(
      rngs, embed, widths[-1], axes=('embed', 'channels_out')
    )
    self.up = module.List(
      Up(
        *(rngs, config, backend),
        width=widths[i],
        below=widths[min(i + 1, len(widths) - 1)],
        above=widths[max(i - 1, 0)],
        resample=i > 0,
      )
      for i in reversed(range(len(widths)))
    )
    self.norm = layers.GroupNorm(widths[0], groups=config.groups)
    self.exit = layers.Conv(rngs, widths[0], channels, size=3, scale=0.0)

  def encode(
    self, x: Float[Array, 'b i h w c'], t: Float[Array, 'b i']
  ) -> tuple[Float[Array, 'b i n e'], Skip]:
    """Patches in raster order, and the features of every down block for `decode`.

    Raises:
      ValueError: the sides of the latents do not divide by the patch size.
    """
    b, i, h, w, c = x.shape
    rows, columns = adapter.grid(h, w, self.config.patch)
    time = self._embed(t)
    y = self.entry(x.reshape(b * i, h, w, c))
    skip = [y]
    for down in self.down:
      y, features = down(y, time)
      skip += features
    y = self.inward(y).reshape(b, i, rows * columns, -1)
    return y, tuple(each.reshape(b, i, *each.shape[1:]) for each in skip)

  def decode(
    self, hidden: Float[Array, 'b i n e'], t: Float[Array, 'b i'], skip: Skip
  ) -> Float[Array, 'b i h w c']:
    """The prediction for every latent pixel, from the hidden states of the patches."""
    b, i, *grid = skip[-1].shape[:-1]
    time = self._embed(t)
    y = self.outward(hidden).reshape(b * i, *grid, -1)
    features = [each.reshape(b * i, *each.shape[2:]) for each in skip]
    for up in self.up:
      y = up(y, time, features)
    y = self.exit(jax.nn.silu(self.norm(y)))
    return y.reshape(b, i, *y.shape[1:])

  def _embed(self, t: Float[Array, 'b i']) -> Float[Array, '{t.size} f']:
    return self.time(t.reshape(-1))


class Stage(module.Module):
  """A residual block and attention within the picture."""

  def __init__(
    self,
    rngs: module.Rngs,
    config: UNetConfig,
    backend: attention.Backend,
    *,
    inputs: int,
    outputs: int,
  ):
    self.block = layers.ResidualBlock(
      rngs, inputs, outputs, groups=config.groups, time=4 * config.widths[0]
    )
    heads = outputs // config.head_dim
    self.attention = layers.ImageAttention(
      rngs, outputs, heads=heads, groups=config.groups, backend=backend
    )

  def __call__(
    self, x: Float[Array, 'b h w i'], time: Float[Array, 'b f']
  ) -> Float[Array, 'b h w o']:
    return self.attention(self.block(x, time))


class Down(module.Module):
  """One resolution of the down half, and the way to the next one."""

  def __init__(
    self,
    rngs: module.Rngs,
    config: UNetConfig,
    backend: attention.Backend,
    *,
    inputs: int,
    width: int,
    resample: bool,
  ):
    self.stages = module.List(
      Stage(rngs, config, backend, inputs=width if j else inputs, outputs=width)
      for j in range(config.blocks)
    )
    self.resample = (
      layers.Conv(rngs, width, width, size=3, stride=2) if resample else None
    )

  def __call__(
    self, x: Float[Array, 'b h w i'], time: Float[Array, 'b f']
  ) -> tuple[Float[Array, 'b y x o'], list[Float[Array, 'b _ _ _']]]:
    """Gives what goes on down, and the features of every block."""
    features = []
    for stage in self.stages:
      x = stage(x, time)
      features.append(x)
    if self.resample is not None:
      x = self.resample(x)
      features.append(x)
    return x, features


class Up(module.Module):
  """One resolution of the up half, and the way to the one above.

  Args (of the constructor):
    width: of this resolution.
    below: of the resolution that it is entered from.
    above: of the resolution that the down half came from, as its last skip.
    resample: whether there is a resolution above.
  """

  def __init__(
    self,
    rngs: module.Rngs,
    config: UNetConfig,
    backend: attention.Backend,
    *,
    width: int,
    below: int,
    above: int,
    resample: bool,
  ):
    skips = (width,) * config.blocks + (above,)
    inputs = (below,) + (width,) * config.blocks
    self.stages = module.List(
      Stage(rngs, config, backend, inputs=first + second, outputs=width)
      for first, second in zip(inputs, skips, strict=True)
    )
    self.resample = layers.Conv(rngs, width, width, size=3) if resample else None

  def __call__(
    self,
    x: Float[Array, 'b h w i'],
    time: Float[Array, 'b f'],
    features: list[Float[Array, 'b _ _ _']],
  ) -> Float[Array, 'b y x o']:
    """Takes one of the down half's features, last in first out, for every block."""
    for stage in self.stages:
      x = stage(jnp.concatenate([x, features.pop()], axis=-1), time)
    return x if self.resample is None else self.resample(layers.enlarge(x))


def _check(config: UNetConfig) -> None:
  for width in config.widths:
    if width % config.groups or width % config.head_dim:
      raise ValueError(
        f'expected U-Net widths that divide by {config.groups} groups and by heads of '
        f"{config.head_dim} channels, found {width}; change the adapter's widths, "
        'groups or head_dim'
      )
