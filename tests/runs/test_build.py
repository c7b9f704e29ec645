"""A run as it is built: its step compiles once and never leaves the devices."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from configs import emoji_scenes
from transfusion_jax.core import axes
from transfusion_jax.runs import build, config
from transfusion_jax.training import mesh as mesh_lib


@functools.cache
def run() -> config.TransfusionRun:
  """The emoji run, with a smaller model."""
  page = emoji_scenes.get_config()
  page.model.transformer.update(depth=2, width=32, mlp=48, unroll=1)
  return config.parse(page)


def random_batch(mesh):
  """Rows of the run's shapes, all on the devices."""
  place = NamedSharding(mesh, axes.BATCH_SPEC)
  shapes = build.batch_shapes(run(), run().data.rows, place)
  ones = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)
  length = jnp.arange(ones.tokens.shape[1])[None]
  causal = dataclasses.replace(ones, end=ones.end * (length + 1))
  return jax.device_put(causal, place)


def test_steps_compile_once_and_stay_on_the_devices(caplog):
  mesh = mesh_lib.make(run().mesh)
  trainer = build.trainer(run(), mesh)
  state, batch = trainer.init(jax.random.key(0), {}, {}), random_batch(mesh)
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    for _ in range(4):
      state, metrics = trainer.step(state, batch)
  messages = [record.getMessage() for record in caplog.records]
  assert sum(m.startswith('Compiling jit(step)') for m in messages) == 1
  assert jnp.isfinite(metrics['loss'])
  with jax.transfer_guard('disallow'):
    trainer.step(state, batch)
  lowered = trainer.step.lower(trainer.abstract, batch).as_text()
  for word in ('infeed', 'outfeed', 'callback', 'stablehlo.send', 'stablehlo.recv'):
    assert word not in lowered
