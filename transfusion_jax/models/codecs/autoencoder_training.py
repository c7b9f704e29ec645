"""An autoencoder with those who judge its pictures while it is trained."""

from transfusion_jax.models import module
from transfusion_jax.models.codecs import discriminator, kl, perceptual

FROZEN = ('perceptual',)
"""Branches of the parameters that are given and not trained."""


class Judged(kl.Autoencoder):
  """An autoencoder, and what its loss looks at its pictures with.

  Attributes:
    discriminator: learns to tell its pictures from the data's, or None.
    perceptual: LPIPS, or None.
  """

  def __init__(
    self,
    rngs: module.Rngs,
    config: kl.AutoencoderConfig,
    *,
    opponent: discriminator.DiscriminatorConfig | None,
    lpips: bool,
  ):
    """Args: opponent: layout of the discriminator; lpips: whether it is asked."""
    super().__init__(rngs, config)
    self.discriminator = (
      None if opponent is None else discriminator.Discriminator(rngs, opponent)
    )
    self.perceptual = perceptual.Perceptual(rngs, perceptual.WIDTHS) if lpips else None
