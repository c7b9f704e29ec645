"""A step with a discriminator and frozen weights: the same however it is divided."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support import tiny
from transfusion_jax.core import axes, sharding
from transfusion_jax.models import batch as batch_lib
from transfusion_jax.models import module
from transfusion_jax.models.codecs import (
  autoencoder_training,
  discriminator,
  perceptual,
)
from transfusion_jax.objectives import adversarial, autoencoding
from transfusion_jax.training import mesh as mesh_lib
from transfusion_jax.training import state, step

LAYOUT = tiny.autoencoder_config(multipliers=(1,), latent_channels=4, latent_convs=True)
OPPONENT = discriminator.DiscriminatorConfig(channels=4, layers=1, groups=2)
OBJECTIVE = autoencoding.Autoencoding(
  autoencoding.AutoencodingConfig(
    1e-3, 1.0, '', adversarial.AdversarialConfig(0.5, 0, OPPONENT)
  )
)
SGD, ATOL = optax.sgd(0.5), 1e-5


@functools.cache
def plans():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(perceptual, 'WIDTHS', ((4,), (8,)))
    whole = module.blueprint(
      lambda rngs: autoencoder_training.Judged(
        rngs, LAYOUT, opponent=OPPONENT, lpips=True
      )
    )
  random = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: jnp.asarray(0.3 * random.normal(size=leaf.shape), jnp.float32),
    whole.shapes,
  )
  trained, frozen = module.divide(whole, autoencoder_training.FROZEN)
  return trained, frozen, params


def begin():
  trained, frozen, params = plans()
  mine = jax.tree.map(jnp.copy, {name: params[name] for name in trained.shapes})
  now = state.TrainState(
    step=jnp.zeros((), jnp.int32),
    params=mine,
    ema=jax.tree.map(jnp.copy, mine),
    opt_state=SGD.init(mine),
    key=jax.random.key(0),
    norm=jnp.zeros(()),
  )
  return now, {name: params[name] for name in frozen.shapes}


def batch():
  random = np.random.default_rng(0)
  pixels = random.integers(0, 256, (8, 8, 8, 3), np.uint8)
  return batch_lib.Pictures(jnp.asarray(pixels))


def make(microbatches=1):
  bind = plans()[0].definition.bind
  return step.make_step(
    bind, OBJECTIVE, SGD, microbatches=microbatches, ema_decay=0.5, spike=0.0
  )


@functools.cache
def plain_step():
  return jax.jit(make())


@functools.cache
def expected():
  now, frozen = begin()
  return plain_step()(now, batch(), frozen)


def assert_close(found):
  (after, metrics), (wanted, wanted_metrics) = found, expected()
  for name, value in wanted_metrics.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=ATOL),
    after.params,
    wanted.params,
  )


def test_what_is_frozen_is_no_part_of_the_state():
  trained, frozen, params = plans()
  assert frozen.shapes.keys() == frozen.axes.keys() == {'perceptual'}
  assert trained.shapes.keys() == {'encoder', 'decoder', 'discriminator'}
  made = jax.eval_shape(trained.init, jax.random.key(0))
  assert made == trained.shapes
  after, metrics = expected()
  assert after.params.keys() == after.ema.keys() == trained.shapes.keys()
  for branch in trained.shapes:
    moved = jax.tree.map(
      lambda a, b: float(jnp.abs(a - b).max()), after.params[branch], params[branch]
    )
    assert max(jax.tree.leaves(moved)) > 10 * ATOL, branch
  names = {'loss_lpips', 'loss_realism', 'loss_doubt', 'adversarial_weight'}
  assert names <= metrics.keys()


def test_frozen_weights_count():
  now, frozen = begin()
  other = jax.tree.map(lambda leaf: 2.0 * leaf + 0.1, frozen)
  _, metrics = plain_step()(now, batch(), other)
  assert float(metrics['loss_lpips']) != float(expected()[1]['loss_lpips'])


def test_micro_batches_and_eight_devices_change_nothing():
  mesh = mesh_lib.make(mesh_lib.MeshConfig(2, 2, 1, 2))
  trained, frozen, _ = plans()
  now, given = begin()
  places = state.shardings(now, trained.axes, SGD, mesh)
  rows = jax.sharding.NamedSharding(mesh, axes.BATCH_SPEC)
  where = axes.shardings(mesh, frozen.axes, frozen.shapes)
  run = jax.jit(
    sharding.on(mesh, make(microbatches=2)),
    in_shardings=(places, rows, where),
    out_shardings=(places, axes.replicated(mesh)),
  )
  assert_close(
    run(*(jax.device_put(*e) for e in ((now, places), (batch(), rows), (given, where))))
  )
