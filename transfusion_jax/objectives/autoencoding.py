"""Autoencoding: the loss of the autoencoder.

With y = decode(z), z drawn from q(z | x), the loss of a picture x is

    L        = likeness + kl_weight mean KL(q(z | x) || N(0, 1))
               + adversarial.weight balance realism(y)                      (1)
    likeness = mean |y - x| + lpips_weight LPIPS(x, y)                      (2)

The first mean is over latent elements, in nats, the second over pixel values in
[-1, 1]. VQGAN's code adds both up over a picture instead: its weight is ours times the
pixel values per latent element, 24 for the paper's 8x and 8 channels. At the paper's
1e-6 neither is felt. `models.perceptual` is LPIPS; `objectives.adversarial` has realism
and its balance, and the loss of the discriminator, which is added here and moves
nothing else. Terms of weight 0 are not there at all.

Transfusion (appendix A) adds 0.2 times a distance of MoCo v2's features. There are no
weights of MoCo to be had by name; the term is left out.
"""

import dataclasses
import functools

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from transfusion_jax.core import paths
from transfusion_jax.models import batch as batch_lib
from transfusion_jax.models.codecs import autoencoder_training, codec
from transfusion_jax.objectives import adversarial, loss


@dataclasses.dataclass(frozen=True)
class AutoencodingConfig:
  """Settings of the autoencoder's loss.

  Attributes:
    kl_weight: of the mean KL divergence of a latent element; 1e-6 in the paper.
    lpips_weight: of LPIPS; 1 in the paper, 0: it is not computed.
    lpips_file: its weights; empty: those of the installed package.
    adversarial: the discriminator.
  """

  kl_weight: float
  lpips_weight: float
  lpips_file: str
  adversarial: adversarial.AdversarialConfig

  def __post_init__(self):
    file = paths.anywhere(self.lpips_file, 'objective.lpips_file')
    object.__setattr__(self, 'lpips_file', file)


@dataclasses.dataclass(frozen=True)
class Autoencoding:
  """The objective (1)."""

  config: AutoencodingConfig

  def normalizers(
    self, batch: batch_lib.Pictures, step: Int[Array, '']
  ) -> dict[str, Array]:
    """Pictures of the whole batch, and whether the discriminator counts yet."""
    begun = step >= self.config.adversarial.begin
    return {
      'images': jnp.float32(batch.images.shape[0]),
      'adversarial': begun.astype(jnp.float32),
    }

  def __call__(
    self,
    model: autoencoder_training.Judged,
    batch: batch_lib.Pictures,
    keys: Key[Array, ' b'],
    normalizers: dict[str, Array],
  ) -> loss.Loss:
    """The loss of some pictures, with the mean squared error in [0, 1] as a metric."""
    x = codec.to_unit(batch.images)
    posterior = model.encode(x)
    features = model.decoder.features(posterior.sample(keys))
    y = model.decoder.pictures(features).astype(jnp.float32)
    total, metrics = self._likeness(model, x, y)
    kl = jnp.mean(posterior.divergence(), axis=(1, 2, 3))
    total += self.config.kl_weight * kl
    if model.discriminator is not None:
      begun = normalizers['adversarial']
      opposed, weight = self._opposed(model, x, y, features)
      total += begun * (weight * opposed['loss_realism'] + opposed['loss_doubt'])
      metrics |= opposed | {'adversarial_weight': begun * weight}
    metrics |= {'loss': total, 'loss_kl': kl, 'loss_mse': squared_error(y, x)}
    one = jnp.ones_like(total)
    return loss.Loss(
      jnp.sum(total) / normalizers['images'],
      {name: loss.weighted_sum(each, one) for name, each in metrics.items()},
    )

  def _likeness(self, model, x, y) -> tuple[Array, dict[str, Array]]:
    """(2), and its terms."""
    l1 = jnp.mean(jnp.abs(y - x), axis=(1, 2, 3))
    if model.perceptual is None:
      return l1, {'loss_l1': l1}
    lpips = model.perceptual(x, y)
    total = l1 + self.config.lpips_weight * lpips
    return total, {'loss_l1': l1, 'loss_lpips': lpips}

  def _opposed(self, model, x, y, features) -> tuple[dict[str, Array], Array]:
    """Losses of the discriminator and the generator, and the generator's balanced
    weight.
    """
    realism = functools.partial(adversarial.realism, model.discriminator)
    balance = adversarial.balance(
      lambda y: self._likeness(model, x, y)[0],
      realism,
      y,
      functools.partial(model.decoder.gradient_of_pictures, features),
    )
    doubt = adversarial.doubt(model.discriminator, x, y)
    weight = self.config.adversarial.weight * balance
    return {'loss_realism': realism(y), 'loss_doubt': doubt}, weight


def squared_error(
  x: Float[Array, 'b h w c'], y: Float[Array, 'b h w c']
) -> Float[Array, ' b']:
  """Mean squared error of each picture in [-1, 1], clipped, on a scale of [0, 1]."""
  error = 0.5 * (jnp.clip(x, -1.0, 1.0) - jnp.clip(y, -1.0, 1.0))
  return jnp.mean(jnp.square(error), axis=(1, 2, 3))


def psnr(x: Float[Array, 'b h w c'], y: Float[Array, 'b h w c']) -> Float[Array, ' b']:
  """Peak signal-to-noise ratio of each picture in [-1, 1], in dB.

  It is `-10 log10` of the `loss_mse` of one picture. Equal pictures have 100 dB.
  """
  return -10.0 * jnp.log10(jnp.maximum(squared_error(x, y), 1e-10))
