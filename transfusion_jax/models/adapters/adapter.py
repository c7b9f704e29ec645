"""Image adapters: latents to patches for the transformer, hidden states back.

An adapter maps each k x k window of latent pixels to one vector and maps hidden states
back to a prediction for every latent pixel; the modules beside this one implement it.
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float


@runtime_checkable
class Adapter(Protocol):
  """Between latents and the transformer."""

  def encode(
    self, x: Float[Array, 'b i h w c'], t: Float[Array, 'b i']
  ) -> tuple[Float[Array, 'b i n e'], Any]:
    """Patches in raster order, and whatever `decode` wants to have kept."""

  def decode(
    self, hidden: Float[Array, 'b i n e'], t: Float[Array, 'b i'], skip: Any
  ) -> Float[Array, 'b i h w c']:
    """The prediction for every latent pixel."""


def grid(height: int, width: int, patch: int) -> tuple[int, int]:
  """Rows and columns of patches of a latent picture.

  Raises:
    ValueError: the sides do not divide by the patch.
  """
  if height % patch or width % patch:
    raise ValueError(
      f'expected latents whose sides divide by the patch size {patch}, found '
      f'{height} x {width}; change the patch size or the size of the pictures'
    )
  return height // patch, width // patch


def patchify(x: Float[Array, '*b h w c'], patch: int) -> Float[Array, '*b n p']:
  """Cuts pictures into windows in raster order; a patch is row, column, channel."""
  *b, height, width, c = x.shape
  h, w = grid(height, width, patch)
  x = x.reshape(*b, h, patch, w, patch, c)
  x = x.swapaxes(-4, -3)
  return x.reshape(*b, h * w, patch * patch * c)


def unpatchify(
  x: Float[Array, '*b n p'], patch: int, grid: tuple[int, int]
) -> Float[Array, '*b h w c']:
  """The inverse of `patchify`."""
  *b, _, width = x.shape
  h, w = grid
  x = x.reshape(*b, h, w, patch, patch, width // patch**2)
  x = x.swapaxes(-4, -3)
  return x.reshape(*b, h * patch, w * patch, width // patch**2)
