"""What a finished autoencoder's latents and pictures are like."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from transfusion_jax.models import autoencoder, codec
from transfusion_jax.objectives import autoencoding

_BATCH = 64


def measure(
  model: autoencoder.Autoencoder,
  train: Sequence[np.ndarray],
  test: Sequence[np.ndarray],
) -> dict[str, object]:
  """Latent constants over training pictures, and PSNR over test pictures.

  Args:
    model: with trained parameters.
    train: pictures as uint8 [h, w, 3].
    test: pictures that were not trained on.

  Returns:
    `shift` and `scale` per latent channel, and `psnr` in dB, the mean over pictures.
  """

  @jax.jit
  def encode(pixels):
    return model.encode(codec.to_unit(pixels)).mean

  @jax.jit
  def quality(pixels):
    x = codec.to_unit(pixels)
    return autoencoding.psnr(x, model.decode(model.encode(x).mean))

  shift, scale = autoencoder.measure(encode, _batches(train))
  decibels = np.concatenate([np.asarray(quality(batch)) for batch in _batches(test)])
  return {
    'shift': shift.tolist(),
    'scale': scale.tolist(),
    'psnr': float(decibels.mean()),
    'pictures': len(train),
  }


def _batches(pictures: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
  for start in range(0, len(pictures), _BATCH):
    yield np.stack(pictures[start : start + _BATCH])
