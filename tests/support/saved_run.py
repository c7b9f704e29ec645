"""A small run with every evaluator, and its work directory without training."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from configs import base, emoji_scenes
from transfusion_jax.runs import build, config
from transfusion_jax.training import checkpoint, mesh, workdir

STEPS = (5, 7)


def filled(leaf: jax.ShapeDtypeStruct) -> jax.Array:
  """Numbers for an array of a state, where it belongs."""
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jax.device_put(jax.random.key(0), leaf.sharding)
  numbers = 0.2 * np.random.default_rng(leaf.size).normal(size=leaf.shape)
  return jax.device_put(numbers.astype(leaf.dtype), leaf.sharding)


def save(run: config.Run, place: workdir.Workdir, steps: tuple[int, ...]) -> None:
  """A run as it looks after training, but for its numbers, saved by eight devices."""
  place.root.mkdir(parents=True, exist_ok=True)
  place.write_config(config.to_dict(run))
  abstract = build.trainer(run, mesh.make(run.mesh)).abstract
  state = jax.tree.map(filled, abstract)
  with checkpoint.Checkpoints(
    place.checkpoints, dataclasses.replace(checkpoint.ONE, newest=9)
  ) as kept:
    for step in steps:
      kept.save(dataclasses.replace(state, step=jnp.int32(step)), {})


def page(prose: pathlib.Path, **changes):
  """A small run with an evaluator of each kind."""
  made = emoji_scenes.get_config()
  made.update(changes)
  made.model.transformer.update(depth=1, width=16, heads=2, kv_heads=2, head_dim=8)
  made.model.transformer.update(mlp=24, unroll=1)
  made.autoencoder.run.model.update(channels=8, multipliers=(1,), patch=8)
  made.autoencoder.run.model.update(decoder_blocks=1)
  made.train.steps = STEPS[-1]
  made.sampling.steps = 2
  made.evaluation.rows = 4
  base.evaluate(
    made,
    prose=base.evaluator(
      'perplexity', base.source('json_lines', str(prose), form='text')
    ),
    noise=base.evaluator('image_loss', base.source('emoji_scenes'), documents=6),
  )
  return made
