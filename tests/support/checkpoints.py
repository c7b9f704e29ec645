"""A small training state, and how it is saved."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from transfusion_jax.training import (
  checkpoint,
  checkpoint_reader,
  mesh,
  state,
)

NAMES = {'matrix': ('embed', 'mlp'), 'bias': ('mlp',)}


TX = optax.adam(1e-2)


PROGRESS = {'data': {'next': 7, 'carried': [3, 5]}, 'seconds': 0.1 + 0.2}


def keep(newest):
  return dataclasses.replace(checkpoint.ONE, newest=newest)


def init(key):
  return {'matrix': jax.random.normal(key, (64, 32)), 'bias': jnp.zeros(32)}


def advance(now):
  """A step that changes everything."""
  grads = jax.tree.map(lambda p: p + 1.0, now.params)
  with jax.numpy_dtype_promotion('standard'):
    updates, kept = TX.update(grads, now.opt_state, now.params)
  params = optax.apply_updates(now.params, updates)
  ema = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, now.ema, params)
  return state.TrainState(now.step + 1, params, ema, kept, now.key, now.norm)


ADVANCE = jax.jit(advance)


DONATE = jax.jit(advance, donate_argnums=(0,))


def places(sizes):
  """Shapes and shardings of the state on a mesh."""
  devices = mesh.make(mesh.MeshConfig(*sizes))
  shapes = jax.eval_shape(
    lambda key: state.initial(init, TX, key, average=True), jax.random.key(0)
  )
  return checkpoint_reader.abstract(shapes, state.shardings(shapes, NAMES, TX, devices))


def begin(sizes=(2, 2, 1, 2)):
  made = ADVANCE(state.initial(init, TX, jax.random.key(3), average=True))
  wanted = places(sizes)
  return jax.device_put(made, jax.tree.map(lambda leaf: leaf.sharding, wanted)), wanted


def numbers(tree):
  """Every leaf as NumPy, keys by their data."""
  return [
    np.array(
      jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    )
    for x in jax.tree.leaves(tree)
  ]


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(numbers(a), numbers(b), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)
