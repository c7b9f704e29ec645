"""The denoising loss on held-out pictures, at fixed levels and with fixed noise.

The loss that training logs is of other pictures, levels and noise in every batch. Here
each picture is shown once in every bucket of the noise level (`denoising.BUCKETS`), at
a level and with noise that its number and the seed decide: two models, or one model at
two steps, are asked the very same questions. Levels above a picture's `noise_cap` are
left out, as they are in training.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from transfusion_jax.core import sharding
from transfusion_jax.data import corpus, emoji_scenes, held_out, images, packing
from transfusion_jax.diffusion import path as path_lib
from transfusion_jax.evaluation import rows as rows_lib
from transfusion_jax.generation import writer as writer_lib
from transfusion_jax.models import batch as batch_lib
from transfusion_jax.models import transfusion
from transfusion_jax.objectives import denoising, loss


@dataclasses.dataclass(frozen=True)
class ImageLossConfig:
  """Documents with pictures.

  Attributes:
    kind: tells this evaluator from the others.
    documents: as many of the first; 0: all of them.
    seed: of levels and noise.
    source: where they are. With `form.caption_first=1` and `form.caption_drop=0` every
      picture stands behind its caption.
  """

  kind: Literal['image_loss']
  documents: int
  seed: int
  source: corpus.SourceConfig

  def __post_init__(self):
    if not self.source.form.pictures:
      raise ValueError(
        'expected a source with pictures for image_loss, found form '
        f"{self.source.form.kind!r}; set source.form.kind, for example to 'captioned'"
      )
    if self.documents < 0:
      raise ValueError(
        f'expected documents >= 0, found {self.documents}; use 0 for all of them'
      )


class ImageLoss:
  """The evaluator."""

  def __init__(
    self,
    config: ImageLossConfig,
    *,
    scenes: emoji_scenes.EmojiScenesConfig,
    pictures: images.ImagesConfig,
    image_slots: int,
    rows: int,
  ):
    """Opens the source.

    Args:
      config: which documents.
      scenes: which emoji scenes, where it is those.
      pictures: their size.
      image_slots: pictures of a row.
      rows: that go through the model at a time.

    Raises:
      ValueError: as `held_out.HeldOut`.
    """
    self._documents = held_out.HeldOut(
      config.source, scenes=scenes, pictures=pictures, count=config.documents
    )
    self._seed, self._rows, self._slots = config.seed, rows, image_slots
    self._pixels = (pictures.height, pictures.width, 3)
    self._too_long = 0

  def __call__(self, writer: writer_lib.Writer) -> Iterator[tuple[str, float]]:
    """The mean squared error by bucket, and the mean of the buckets."""
    mesh = sharding.mesh_of(writer.model)
    shape = rows_lib.shape(
      writer, rows=self._rows, pictures=(self._slots, *self._pixels)
    )
    sums, counts = np.zeros((2, denoising.BUCKETS))
    pictures = 0
    for bins in rows_lib.batches(self._sequences(writer), shape):
      arrays = packing.stack(bins, shape)
      number, pictures = _numbers(bins, shape, pictures)
      placed = rows_lib.placed(writer.model, {**arrays, 'number': number})
      work = rows_lib.compiled(_errors, mesh, static=(4, 5))
      found = work(
        writer.model, writer.codec, placed, self._seed, writer.path, writer.target
      )
      sums += np.asarray(found.sum, np.float64)
      counts += np.asarray(found.count, np.float64)
    seen = counts > 0
    means = sums[seen] / counts[seen]
    yield 'loss_image', float(means.mean())
    for bucket, mean in zip(np.flatnonzero(seen), means, strict=True):
      yield f'loss_image_{bucket}', float(mean)
    yield 'pictures', float(pictures)
    yield 'left_out', float(self._documents.left_out + self._too_long)

  def _sequences(self, writer: writer_lib.Writer):
    """Documents that fit into a row."""
    self._too_long = 0
    for document in self._documents:
      sequence = writer.layout.document(document)
      if len(sequence) <= writer.context and len(sequence.images) <= self._slots:
        yield sequence
      else:
        self._too_long += 1


def _numbers(bins, shape: packing.Rows, first: int) -> tuple[np.ndarray, int]:
  """Numbers of the pictures in a batch, [b, i], and the number that is next."""
  number = np.zeros((shape.count, shape.image_slots), np.int32)
  for row, sequences in zip(number, bins, strict=True):
    count = sum(len(sequence.images) for sequence in sequences)
    row[:count] = np.arange(first, first + count)
    first += count
  return number, first


def _errors(model, codec, arrays, seed, path, target):
  """Squared errors of some rows as sums and counts by bucket: a ratio of [BUCKETS]."""
  arrays = dict(arrays)
  number, pixels = arrays.pop('number'), arrays.pop('images')
  latents = codec.encode(pixels.reshape(-1, *pixels.shape[2:]))
  latents = latents.reshape(*number.shape, *latents.shape[1:])
  batch = batch_lib.Batch(images=latents, **arrays)
  return jax.lax.map(
    lambda bucket: bucket_loss(model, batch, number, seed, bucket, path, target),
    jnp.arange(denoising.BUCKETS),
  )


def bucket_loss(
  model: transfusion.Transfusion,
  batch: batch_lib.Batch,
  number: Int[Array, 'b i'],
  seed: Int[Array, ''] | int,
  bucket: Int[Array, ''],
  path: path_lib.Path,
  target: path_lib.Target,
) -> loss.Ratio:
  """The loss of all pictures that may be so noisy, at levels within one bucket.

  Args:
    model: predicts `target`.
    batch: rows; pictures that are context stay clean.
    number: of every picture, which its level and noise are drawn from.
    seed: the same.
    bucket: of `denoising.BUCKETS`.
    path: of noise levels.
    target: what the squared error is taken of.
  """
  first, last = (path.steps * (bucket + k) // denoising.BUCKETS for k in (0, 1))
  base = jax.random.fold_in(jax.random.key(seed), bucket)
  shape = batch.images.shape[2:]

  def draw(number):
    for_level, for_noise = jax.random.split(jax.random.fold_in(base, number))
    level = jax.random.randint(for_level, (), first + 1, last + 1)
    return level, jax.random.normal(for_noise, shape, jnp.float32)

  level, epsilon = jax.vmap(jax.vmap(draw))(number)
  t = jnp.where(batch.image_weight > 0, level.astype(jnp.float32) / path.steps, 0.0)
  noised = path.corrupt(batch.images.astype(jnp.float32), epsilon, t)
  predicted = model(batch, noised.x, noised.t)
  allowed = jnp.where(t <= batch.noise_cap, batch.image_weight, 0.0)
  batch = dataclasses.replace(batch, image_weight=allowed)
  return denoising.squared_error(predicted.images, noised, batch, target)['loss_image']
