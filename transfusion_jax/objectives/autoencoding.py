"""Autoencoding: the loss of the autoencoder.

    L = mean |decode(z) - x| + kl_weight mean KL(q(z | x) || N(0, 1))       (1)

with z drawn from q. Both means are over elements: the first over pixel values in
[-1, 1], the second over latent elements, in nats. VQGAN's code adds both up over a
picture instead: its weight is ours times the pixel values per latent element, 24 for
the paper's 8x and 8 channels. At the paper's 1e-6 neither is felt.

Transfusion adds LPIPS, an adversarial loss and MoCo features (its appendix A); they are
not here yet.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from transfusion_jax.models import autoencoder, codec
from transfusion_jax.models import batch as batch_lib
from transfusion_jax.objectives import loss


@dataclasses.dataclass(frozen=True)
class AutoencodingConfig:
  """What the autoencoder minimises.

  Attributes:
    kl_weight: of the mean KL divergence of a latent element; 1e-6 in the paper.
  """

  kl_weight: float


@dataclasses.dataclass(frozen=True)
class Autoencoding:
  """The objective (1)."""

  config: AutoencodingConfig

  def normalizers(self, batch: batch_lib.Pictures) -> dict[str, Array]:
    """Pictures of the whole batch; all have one size, so that they weigh the same."""
    return {'images': jnp.float32(batch.images.shape[0])}

  def __call__(
    self,
    model: autoencoder.Autoencoder,
    batch: batch_lib.Pictures,
    keys: Key[Array, ' b'],
    normalizers: dict[str, Array],
  ) -> loss.Loss:
    """The loss of some pictures, with the mean squared error in [0, 1] as a metric."""
    x = codec.to_unit(batch.images)
    posterior = model.encode(x)
    y = model.decode(posterior.sample(keys)).astype(jnp.float32)
    l1 = jnp.mean(jnp.abs(y - x), axis=(1, 2, 3))
    kl = jnp.mean(posterior.divergence(), axis=(1, 2, 3))
    both = l1 + self.config.kl_weight * kl
    metrics = {
      'loss': both,
      'loss_l1': l1,
      'loss_kl': kl,
      'loss_mse': squared_error(y, x),
    }
    weight = jnp.ones_like(both)
    return loss.Loss(
      jnp.sum(both) / normalizers['images'],
      {name: loss.weighted_sum(each, weight) for name, each in metrics.items()},
    )


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
