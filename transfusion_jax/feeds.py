"""The data of a run on its way to the devices, from its config."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from transfusion_jax import build, config
from transfusion_jax.data import pipeline
from transfusion_jax.evaluation import reconstruction
from transfusion_jax.models import autoencoder, codec
from transfusion_jax.models import batch as batch_lib
from transfusion_jax.training import feed


def documents(
  run: config.TransfusionRun,
  mesh: Mesh,
  frozen: codec.Codec,
  data_state: dict[str, Any] | None,
) -> feed.Feed:
  """Packed rows with their pictures as latents, from where `data_state` stands."""

  @jax.jit
  def prepare(frozen, rows, digest):
    images = rows.pop('images')
    b, i = images.shape[:2]
    flat = images.reshape(b * i, *images.shape[2:])
    if run.data.moments:
      posterior = autoencoder.Posterior.of(flat.astype(jnp.float32))
    else:
      posterior = frozen.model.encode(codec.to_unit(flat))
    keys = _keys(digest, b * i) if run.autoencoder.sample else None
    latents = frozen.scaled(posterior, keys)
    return batch_lib.Batch(images=latents.reshape(b, i, *latents.shape[1:]), **rows)

  def source(rows):
    return pipeline.batches(
      run.data,
      patches=build.patch_count(run),
      image_shape=image_shape(run),
      seed=run.seed,
      rows=rows,
    )

  return feed.Feed(
    source,
    mesh,
    rows=run.data.rows,
    state=data_state,
    prepare=lambda rows, digest: prepare(frozen, rows, digest),
    count=lambda rows: jnp.sum(rows['end'] > rows['start']),
    shares=pipeline.shares,
    unit='tokens',
  )


def _keys(digest: jax.Array, count: int) -> jax.Array:
  """Random keys that the data decides: the same wherever and whenever it is met."""
  return jax.random.split(
    jax.random.fold_in(jax.random.key(digest[0]), digest[1]), count
  )


def image_shape(run: config.TransfusionRun) -> tuple[int, int, int]:
  """Of a picture as it comes from the data: pixels, or moments of its latents."""
  if not run.data.moments:
    return pipeline.pixels(run.data)
  h, w, channels = build.latents(run)
  return h, w, 2 * channels


def pictures(
  run: config.AutoencoderRun, mesh: Mesh, data_state: dict[str, Any] | None
) -> feed.Feed:
  """Pictures alone."""
  return feed.Feed(
    lambda rows: pipeline.pictures(run.data, split='train', seed=run.seed, rows=rows),
    mesh,
    rows=run.data.rows,
    state=data_state,
    prepare=lambda rows, _: batch_lib.Pictures(**rows),
    count=lambda rows: jnp.int32(len(rows['images'])),
    shares=pipeline.shares,
    unit='pictures',
  )


def measure(
  run: config.AutoencoderRun, model: autoencoder.Autoencoder
) -> dict[str, object]:
  """Latent constants and PSNR of a trained autoencoder."""
  return reconstruction.measure(model, _some(run, 'train'), _some(run, 'test'))


def _some(run: config.AutoencoderRun, split: str) -> Iterator[np.ndarray]:
  """Batches of pictures, as many as are to be measured."""
  rows = math.gcd(run.measured, 64)
  data = dataclasses.replace(run.data, rows=rows, shards=1, prefetch=1)
  batches = pipeline.pictures(data, split=split, seed=run.seed, rows=range(rows))
  for _ in range(run.measured // rows):
    yield next(batches)['images']
  batches.close()
