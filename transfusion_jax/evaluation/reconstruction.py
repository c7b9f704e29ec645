"""Latent statistics and reconstructions of a finished autoencoder."""

from collections.abc import Iterable

import jax
import numpy as np

from transfusion_jax.models.codecs import codec, kl
from transfusion_jax.objectives import autoencoding


def measure(
  model: kl.Autoencoder,
  train: Iterable[np.ndarray],
  test: Iterable[np.ndarray],
) -> dict[str, object]:
  """Latent constants over training pictures, and PSNR over test pictures.

  Args:
    model: with trained parameters.
    train: batches of pictures as uint8 [b, h, w, 3].
    test: batches of pictures that were not trained on.

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

  shift, scale = kl.measure(encode, train)
  decibels = np.concatenate([np.asarray(quality(batch)) for batch in test])
  return {
    'shift': shift.tolist(),
    'scale': scale.tolist(),
    'psnr': float(decibels.mean()),
    'pictures': len(decibels),
  }
