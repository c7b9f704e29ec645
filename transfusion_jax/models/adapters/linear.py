"""Linear image adapter (Transfusion, section 3.3)."""

import dataclasses

from jaxtyping import Array, Float

from transfusion_jax.models import layers, module
from transfusion_jax.models.adapters import adapter


@dataclasses.dataclass(frozen=True)
class LinearConfig:
  """The linear adapter.

  Attributes:
    patch: latent pixels along a patch's side: 1, 2, 4 or 8 in the paper.
    time_features: width of the noise level's sinusoid, even.
    positions: side of the largest grid of patches with a learned row and column
      embedding; 0, as in the paper, adds none.
  """

  patch: int
  time_features: int
  positions: int


class Linear(module.Module):
  """One matrix in, one matrix out."""

  def __init__(
    self, rngs: module.Rngs, config: LinearConfig, *, channels: int, embed: int
  ):
    self.config, self.channels = config, channels
    width = config.patch**2 * channels
    self.inward = layers.Linear(rngs, width, embed, axes=('patch', 'embed'))
    self.time = layers.TimeEmbedding(rngs, features=config.time_features, width=embed)
    self.outward = layers.Linear(rngs, embed, width, axes=('embed', 'patch'), scale=0.0)
    side = config.positions
    learned = {'scale': 0.3, 'patch': side, 'embed': embed}
    self.row = module.weight(rngs, **learned) if side else None
    self.column = module.weight(rngs, **learned) if side else None

  def encode(
    self, x: Float[Array, 'b i h w c'], t: Float[Array, 'b i']
  ) -> tuple[Float[Array, 'b i n e'], tuple[int, int]]:
    h, w = x.shape[2] // self.config.patch, x.shape[3] // self.config.patch
    patches = self.inward(adapter.patchify(x, self.config.patch))
    patches = patches + self.time(t)[:, :, None].astype(x.dtype)
    if self.row is not None:
      patches = patches + self._grid(h, w)[None, None].astype(x.dtype)
    return patches, (h, w)

  def decode(
    self, hidden: Float[Array, 'b i n e'], t: Float[Array, 'b i'], skip: tuple[int, int]
  ) -> Float[Array, 'b i h w c']:
    del t
    return adapter.unpatchify(self.outward(hidden), self.config.patch, grid=skip)

  def _grid(self, h: int, w: int) -> Float[Array, 'n e']:
    if max(h, w) > self.config.positions:
      raise ValueError(
        f'expected at most {self.config.positions} patches along a side, found {h} x '
        f'{w}; raise model.adapter.linear.positions'
      )
    grid = self.row[...][:h, None] + self.column[...][None, :w]
    return grid.reshape(h * w, -1)
