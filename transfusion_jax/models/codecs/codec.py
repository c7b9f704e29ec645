"""Pixels to latents and back: a frozen autoencoder with its measured latent scale."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from transfusion_jax.core import tree
from transfusion_jax.models.codecs import kl


@tree.struct
class Codec:
  """A trained autoencoder whose latents are brought to zero mean and a known deviation.

  Attributes:
    model: the autoencoder.
    shift: mean of each latent channel over training pictures.
    scale: what each channel is divided by: its standard deviation over training
      pictures, for latents of unit variance.
  """

  model: kl.Autoencoder
  shift: Float[Array, ' c']
  scale: Float[Array, ' c']

  def encode(self, pixels: UInt8[Array, 'b h w 3']) -> Float[Array, 'b y x c']:
    """Scaled latents, the posterior's mean."""
    return self.scaled(self.model.encode(to_unit(pixels)), None)

  def scaled(
    self, posterior: kl.Posterior, keys: Key[Array, ' b'] | None
  ) -> Float[Array, 'b y x c']:
    """Scaled latents: drawn from the posterior with keys, without them its mean."""
    latents = posterior.mean if keys is None else posterior.sample(keys)
    return (latents - self.shift[None, None, None]) / self.scale[None, None, None]

  def decode(self, latents: Float[Array, 'b y x c']) -> UInt8[Array, 'b h w 3']:
    """Pictures as pixels."""
    latents = latents * self.scale[None, None, None] + self.shift[None, None, None]
    return to_pixels(self.model.decode(latents))


def to_unit(pixels: UInt8[Array, '*b h w c']) -> Float[Array, '*b h w c']:
  """Pixels 0..255 to -1..1."""
  return pixels.astype(jnp.float32) / 127.5 - 1.0


def to_pixels(x: Float[Array, '*b h w c']) -> UInt8[Array, '*b h w c']:
  """-1..1 to pixels 0..255, rounded and clipped."""
  return jnp.clip(jnp.round((x + 1.0) * 127.5), 0, 255).astype(jnp.uint8)
