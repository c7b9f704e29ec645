"""The data of a run on its way to the devices, from its config."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import UInt8

from transfusion_jax.core import axes, digest
from transfusion_jax.data import pipeline
from transfusion_jax.data.latents import manifest
from transfusion_jax.evaluation import reconstruction
from transfusion_jax.models import batch as batch_lib
from transfusion_jax.models.codecs import codec, kl
from transfusion_jax.runs import build, config, restore
from transfusion_jax.training import feed
from transfusion_jax.training import mesh as mesh_lib


def documents(
  run: config.TransfusionRun,
  mesh: Mesh,
  frozen: codec.Codec | None,
  data_state: dict[str, Any] | None,
) -> feed.Feed:
  """Packed rows with their pictures as latents, from where `data_state` stands.

  Without image slots there are none, and no autoencoder is needed.

  Latents that are stored differ from those made here by the rounding to float16. Where
  they are drawn from the posterior, the noise is another as well: it belongs to what is
  in the batch, which is pixels here and moments there.
  """

  @jax.jit
  def prepare(frozen, rows, lanes):
    images = rows.pop('images')
    b, i = images.shape[:2]
    flat = images.reshape(b * i, *images.shape[2:])
    if frozen is None:
      empty = jnp.zeros((b, 0, *build.latents(run)))
      return batch_lib.Batch(images=empty, **rows)
    if run.data.moments:
      posterior = kl.Posterior.of(flat.astype(jnp.float32))
    else:
      posterior = frozen.model.encode(codec.to_unit(flat))
    keys = _keys(lanes, b * i) if run.autoencoder.sample else None
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
    prepare=lambda rows, lanes: prepare(frozen, rows, lanes),
    count=lambda rows: jnp.sum(rows['end'] > rows['start']),
    shares=pipeline.shares,
    empty=lambda rows: not rows['end'].any(),
    unit='tokens',
  )


def _keys(lanes: jax.Array, count: int) -> jax.Array:
  """Random keys that the data decides: the same wherever and whenever it is met."""
  return jax.random.split(jax.random.fold_in(jax.random.key(lanes[0]), lanes[1]), count)


def moments(
  frozen: codec.Codec, mesh: Mesh
) -> Callable[[UInt8[np.ndarray, 'b h w 3']], jax.Array]:
  """Makes of pictures what `documents` takes with `data.moments`: [b, y, x, 2 c].

  Batches are divided over the devices, and are to be of one size.
  """
  rows = NamedSharding(mesh, axes.BATCH_SPEC)

  @jax.jit
  def encode(frozen, images):
    posterior = frozen.model.encode(codec.to_unit(images))
    return posterior.moments.astype(jnp.float16)

  return lambda images: encode(frozen, jax.device_put(images, rows))


def check_latents(run: config.Run) -> None:
  """Checks that latents, where a run takes stored ones, are of its autoencoder.

  Raises:
    ValueError: they are of another one.
  """
  if isinstance(run, config.TransfusionRun) and run.data.moments:
    directory, devices = (
      pathlib.Path(run.autoencoder.checkpoint),
      mesh_lib.make(run.mesh),
    )
    frozen = restore.codec_from(directory, devices, deviation=run.autoencoder.deviation)
    manifest.check_autoencoder(run.data, identity(frozen))


def identity(frozen: codec.Codec) -> str:
  """Identity of an autoencoder: a digest of its parameters."""
  return digest.text(jax.jit(digest.digest)(frozen.model))


def image_shape(run: config.TransfusionRun) -> tuple[int, int, int]:
  """Shape of an image from the data: pixels, or moments of its latents."""
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
    empty=lambda rows: False,
    unit='pictures',
  )


def measure(run: config.AutoencoderRun, model: kl.Autoencoder) -> dict[str, object]:
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
