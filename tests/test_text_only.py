"""Without images the model costs what a plain Llama costs, and learns as one does."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from benchmarks import plain_llama
from configs import emoji_scenes
from transfusion_jax.compiling import flops, hlo, timeline, topologies
from transfusion_jax.core import axes
from transfusion_jax.runs import build, config
from transfusion_jax.training import mesh as mesh_lib


@functools.cache
def run() -> config.TransfusionRun:
  """A small run whose rows hold text alone."""
  page = emoji_scenes.get_config()
  page.model.transformer.update(depth=2, width=64, mlp=96, unroll=1, remat='full')
  page.data.image_slots = 0
  page.mesh.update(data=2, fsdp=2, sequence=1, tensor=2)
  return config.parse(page)


def text_batch(place):
  """Rows of two documents each, every token learnt."""
  shapes = build.batch_shapes(run(), run().data.rows, place)
  rows, length = shapes.tokens.shape
  tokens = np.random.default_rng(0).integers(4, 60, (rows, length + 1))
  at = np.arange(length)
  start = np.where(at < 64, 0, 64)
  by_position = {
    'tokens': tokens[:, :-1],
    'targets': tokens[:, 1:],
    'position': np.tile(at - start, (rows, 1)),
    'start': np.tile(start, (rows, 1)),
    'end': np.tile(at + 1, (rows, 1)),
    'slot': np.full((rows, length), -1),
  }
  made = dataclasses.replace(
    jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes),
    **{name: jnp.asarray(x, jnp.int32) for name, x in by_position.items()},
  )
  return jax.device_put(made, place)


@functools.cache
def both():
  """Of both models the trainer, operations, collectives, and a loss."""
  mesh = mesh_lib.make(run().mesh)
  batch = text_batch(NamedSharding(mesh, axes.BATCH_SPEC))
  found, params = {}, None
  for name, parts in (
    ('ours', build.parts(run())),
    ('llama', plain_llama.llama(run())),
  ):
    trainer = build.trainer_of(parts, run(), mesh)
    traced = trainer.step.trace(trainer.abstract, batch)
    text = traced.lower().compile().as_text()
    reader = timeline.Reader(hlo.parse(text), mesh, topologies.CHIPS['v5e'], 2)
    moved = timeline.totals(reader.estimate())
    state = trainer.init(jax.random.key(0), {}, {})
    params = params or jax.tree.map(jnp.copy, state.params)  # the step takes its own
    own = {part: jax.tree.map(jnp.copy, params[part]) for part in state.params}
    _, metrics = trainer.step(dataclasses.replace(state, params=own), batch)
    found[name] = {
      'flops': flops.of_jaxpr(traced.jaxpr.jaxpr),
      'bytes': sum(each['count'] * each['bytes'] for each in moved),
      'kinds': {(each['kind'], tuple(each['axes'])) for each in moved},
      'loss': float(metrics['loss']),
    }
  return found


def test_operations_and_collectives_are_those_of_a_llama():
  ours, llama = both()['ours'], both()['llama']
  assert ours['flops'] == llama['flops'] > 0
  assert abs(ours['bytes'] / llama['bytes'] - 1) < 0.03
  assert ours['kinds'] == llama['kinds']


def test_with_the_same_parameters_the_loss_is_the_same():
  assert both()['ours']['loss'] == both()['llama']['loss'] > 1.0
