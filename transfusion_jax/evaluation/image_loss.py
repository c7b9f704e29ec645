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
from transfusion_jax.data import corpus, documents, held_out, pipeline
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.images import image_files
from transfusion_jax.data.rows import layout, packing
from transfusion_jax.diffusion import path as path_lib
from transfusion_jax.evaluation import evaluator, own_documents
from transfusion_jax.evaluation import rows as rows_lib
from transfusion_jax.generation import writer as writer_lib
from transfusion_jax.models import batch as batch_lib
from transfusion_jax.models import transfusion
from transfusion_jax.models.codecs import kl
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


@dataclasses.dataclass(frozen=True)
class HeldoutImageLossConfig:
  """Documents with images that the run's own data holds out.

  Attributes:
    kind: tells this evaluator from the others.
    documents: at most.
    seed: of the choice, of levels and noise.
  """

  kind: Literal['heldout_image_loss']
  documents: int
  seed: int

  def __post_init__(self):
    own_documents.check_count(self.documents)


@dataclasses.dataclass(frozen=True)
class _Shape:
  """Contents of the rows.

  Attributes:
    rows: that go through the model at a time.
    image_slots: images of a row.
    image: shape of each, of pixels or of moments of latents.
    moments: whether it is moments.
  """

  rows: int
  image_slots: int
  image: tuple[int, int, int]
  moments: bool


class ImageLoss:
  """The evaluator, on a source of its own."""

  def __init__(
    self,
    config: ImageLossConfig,
    *,
    scenes: emoji_scenes.EmojiScenesConfig,
    pictures: image_files.ImagesConfig,
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
    pixels = (pictures.height, pictures.width, 3)
    self._seed, self._shape = config.seed, _Shape(rows, image_slots, pixels, False)

  def check(self) -> None:
    """Makes documents until one has an image."""
    evaluator.demand(self._documents, evaluator.has_images, 'images')

  def __call__(self, writer: writer_lib.Writer) -> Iterator[tuple[str, float]]:
    """The mean squared error by bucket, and the mean of the buckets."""
    yield from _measured(writer, self._documents, self._seed, self._shape)


class HeldoutImageLoss:
  """The evaluator, on what the run's own data holds out."""

  def __init__(
    self,
    config: HeldoutImageLossConfig,
    *,
    data: pipeline.DataConfig,
    plan: layout.Layout,
    image_shape: tuple[int, int, int],
    rows: int,
  ):
    """Chooses the documents.

    Args:
      config: how many.
      data: of the run.
      plan: of its documents.
      image_shape: of an image as it comes from the data.
      rows: that go through the model at a time.

    Raises:
      evaluator.Unsuited: no document with an image is held out.
    """
    own = own_documents.OwnDocuments(data, plan, seed=config.seed)
    self._documents = own.choose(
      config.documents,
      lambda each: evaluator.has_images(each) and own.fits(each),
      'images',
    )
    rows = min(rows, own_documents.ROWS)
    self._seed = config.seed
    self._shape = _Shape(rows, data.image_slots, image_shape, data.moments)

  def check(self) -> None:
    """Nothing is left to try: the documents were read when they were chosen."""

  def __call__(self, writer: writer_lib.Writer) -> Iterator[tuple[str, float]]:
    """See `ImageLoss`."""
    yield from _measured(writer, self._documents, self._seed, self._shape)


def _measured(
  writer: writer_lib.Writer,
  found: held_out.HeldOut | list[documents.Document],
  seed: int,
  kind: _Shape,
) -> Iterator[tuple[str, float]]:
  """The mean squared error by bucket, the mean of the buckets, and of how many."""
  mesh = sharding.mesh_of(writer.model)
  shape = rows_lib.shape(
    writer, rows=kind.rows, pictures=(kind.image_slots, *kind.image)
  )
  if kind.moments:
    shape = dataclasses.replace(shape, image_type=np.float16)
  too_long: list[documents.Document] = []
  sums, counts = np.zeros((2, denoising.BUCKETS))
  pictures = 0
  for bins in rows_lib.batches(_sequences(writer, found, kind, too_long), shape):
    arrays = packing.stack(bins, shape)
    number, pictures = _numbers(bins, shape, pictures)
    placed = rows_lib.placed(writer.model, {**arrays, 'number': number})
    work = rows_lib.compiled(_errors, mesh, static=(4, 5, 6))
    asked = (seed, writer.path, writer.target, kind.moments)
    ratio = work(writer.model, writer.codec, placed, *asked)
    sums += np.asarray(ratio.sum, np.float64)
    counts += np.asarray(ratio.count, np.float64)
  seen = counts > 0
  if not seen.any():
    raise ValueError(
      f'expected documents with images that fit into a row of {writer.context} '
      f'positions, found none; {len(too_long)} are too long; raise data.row_length'
    )
  means = sums[seen] / counts[seen]
  yield 'loss_image', float(means.mean())
  for bucket, mean in zip(np.flatnonzero(seen), means, strict=True):
    yield f'loss_image_{bucket}', float(mean)
  yield 'pictures', float(pictures)
  left_out = found.left_out if isinstance(found, held_out.HeldOut) else 0
  yield 'left_out', float(left_out + len(too_long))


def _sequences(
  writer: writer_lib.Writer, found, kind: _Shape, too_long: list[documents.Document]
) -> Iterator[layout.Sequence]:
  """Documents that fit into a row; the others are put into `too_long`."""
  for document in found:
    sequence = writer.layout.document(document)
    if len(sequence) <= writer.context and len(sequence.images) <= kind.image_slots:
      yield sequence
    else:
      too_long.append(document)


def _numbers(bins, shape: packing.Rows, first: int) -> tuple[np.ndarray, int]:
  """Numbers of the pictures in a batch, [b, i], and the number that is next."""
  number = np.zeros((shape.count, shape.image_slots), np.int32)
  for row, sequences in zip(number, bins, strict=True):
    count = sum(len(sequence.images) for sequence in sequences)
    row[:count] = np.arange(first, first + count)
    first += count
  return number, first


def _errors(model, codec, arrays, seed, path, target, moments):
  """Squared errors of some rows as sums and counts by bucket: a ratio of [BUCKETS]."""
  arrays = dict(arrays)
  number, pixels = arrays.pop('number'), arrays.pop('images')
  flat = pixels.reshape(-1, *pixels.shape[2:])
  if moments:
    posterior = kl.Posterior.of(flat.astype(jnp.float32))
    latents = codec.scaled(posterior, None)
  else:
    latents = codec.encode(flat)
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
