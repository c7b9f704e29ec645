"""L = L_LM + lambda L_DDPM (Transfusion, section 3.2, eq. 4)."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from transfusion_jax.diffusion import path as path_lib
from transfusion_jax.models import batch as batch_lib
from transfusion_jax.models import transfusion
from transfusion_jax.objectives import denoising, language, loss


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
  """Settings of the training loss.

  Attributes:
    image_weight: lambda; 5 in the paper.
    target: what the network predicts, and what its squared error is taken of;
      `epsilon` in the paper.
    path: from data to noise.
  """

  image_weight: float
  target: path_lib.Target
  path: path_lib.PathConfig


@dataclasses.dataclass(frozen=True)
class Transfusion:
  """The objective of mixed pretraining."""

  image_weight: float
  target: path_lib.Target
  path: path_lib.Path

  def normalizers(
    self, batch: batch_lib.Batch, step: Int[Array, '']
  ) -> dict[str, Array]:
    """Learnt tokens and denoised pictures of the whole batch."""
    del step
    return {
      'text': jnp.maximum(jnp.sum(batch.weight), 1.0),
      'images': jnp.maximum(jnp.sum(batch.image_weight), 1.0),
    }

  def __call__(
    self,
    model: transfusion.Transfusion,
    batch: batch_lib.Batch,
    keys: Key[Array, ' b'],
    normalizers: dict[str, Array],
  ) -> loss.Loss:
    noised = denoising.corrupt(batch, keys, self.path)
    predicted = model(batch, noised.x, noised.t)
    text = language.next_token(model, predicted.hidden, batch)
    images = denoising.squared_error(predicted.images, noised, batch, self.target)
    total = text.sum / normalizers['text']
    total += self.image_weight * images['loss_image'].sum / normalizers['images']
    return loss.Loss(total, {'loss_text': text, **images})
