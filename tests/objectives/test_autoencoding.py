"""Autoencoding: the loss is what it says, adds up over parts, and can be learnt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.models import batch as batch_lib
from transfusion_jax.models import module
from transfusion_jax.models.codecs import (
  autoencoder_training,
  codec,
  discriminator,
  perceptual,
)
from transfusion_jax.objectives import adversarial, autoencoding, loss

STEP = jnp.zeros((), jnp.int32)
OPPONENT = discriminator.DiscriminatorConfig(channels=4, layers=1, groups=2)
WIDTHS = ((4,), (6, 6))

CONFIG = tiny.autoencoder_config(latent_channels=4, patch=4)


def objective(kl_weight=0.1, begin=0):
  """All terms; those that a model has no judge for are not there."""
  opposed = adversarial.AdversarialConfig(0.5, begin, OPPONENT)
  return autoencoding.Autoencoding(
    autoencoding.AutoencodingConfig(kl_weight, 2.0, '', opposed)
  )


@jax.jit
def loss_of(model, batch, keys, normalizers):
  return objective()(model, batch, keys, normalizers)


@jax.jit
def build(key):
  return autoencoder_training.Judged(
    module.Rngs(key), CONFIG, opponent=None, lpips=False
  )


@pytest.fixture(scope='module')
def opposed():
  """A model with a discriminator and a small LPIPS."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(perceptual, 'WIDTHS', WIDTHS)
    plan = module.blueprint(
      lambda rngs: autoencoder_training.Judged(
        rngs, CONFIG, opponent=OPPONENT, lpips=True
      )
    )
  random = np.random.default_rng(0)
  return plan.definition.bind(
    jax.tree.map(
      lambda leaf: jnp.asarray(0.3 * random.normal(size=leaf.shape), jnp.float32),
      plan.shapes,
    )
  )


@jax.jit
def sampled(model, images, keys):
  """Pictures as they come back, their posterior, and as they went in."""
  x = codec.to_unit(images)
  posterior = model.encode(x)
  return model.decode(posterior.sample(keys)), posterior, x


def pictures(count=4):
  """Squares of one colour on grounds of another."""
  random = np.random.default_rng(0)
  images = np.broadcast_to(
    random.integers(0, 256, (count, 1, 1, 3), np.uint8), (count, 16, 16, 3)
  ).copy()
  images[:, 4:12, 4:12] = random.integers(0, 256, (count, 1, 1, 3), np.uint8)
  return batch_lib.Pictures(jnp.asarray(images))


def part(tree, index, count):
  return jax.tree.map(lambda leaf: leaf[index::count], tree)


def test_loss_is_l1_and_divergence():
  model = build(jax.random.key(0))
  batch, keys = pictures(), jax.random.split(jax.random.key(1), 4)
  found = loss_of(model, batch, keys, objective().normalizers(batch, STEP))
  y, posterior, x = sampled(model, batch.images, keys)
  l1, kl = jnp.mean(jnp.abs(x - y)), jnp.mean(posterior.divergence())
  np.testing.assert_allclose(found.metrics['loss_l1'].value, l1, rtol=1e-5)
  np.testing.assert_allclose(found.metrics['loss_kl'].value, kl, rtol=1e-5)
  np.testing.assert_allclose(found.total, l1 + 0.1 * kl, rtol=1e-5)
  np.testing.assert_allclose(found.metrics['loss'].value, found.total, rtol=1e-5)


def test_all_terms_add_up_to_the_loss(opposed):
  batch, keys = pictures(1), jax.random.split(jax.random.key(1), 1)
  found = loss_of(opposed, batch, keys, objective().normalizers(batch, STEP))
  values = {name: float(metric.value) for name, metric in found.metrics.items()}
  assert min(values['loss_lpips'], values['adversarial_weight']) > 0
  expected = values['loss_l1'] + 0.1 * values['loss_kl'] + 2.0 * values['loss_lpips']
  expected += values['adversarial_weight'] * values['loss_realism']
  np.testing.assert_allclose(found.total, expected + values['loss_doubt'], rtol=1e-5)


def test_before_its_time_a_discriminator_neither_counts_nor_learns(opposed):
  batch, keys = pictures(), jax.random.split(jax.random.key(1), 4)
  definition, params = module.split(opposed)
  rule = objective(begin=10)

  @jax.jit
  def gradient(params, step):
    found = lambda params: rule(  # noqa: E731
      definition.bind(params), batch, keys, rule.normalizers(batch, step)
    )
    return jax.grad(lambda params: found(params).total)(params)

  before, after = (gradient(params, jnp.int32(step)) for step in (9, 10))
  largest = lambda tree: max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))  # noqa: E731
  assert largest(before['discriminator']) == 0.0
  assert largest(after['discriminator']) > 0.0
  assert largest(before['decoder']) > 0.0
  changed = jax.tree.map(jnp.subtract, before['decoder'], after['decoder'])
  assert largest(changed) > 0.0


@pytest.mark.parametrize('judges', [False, True])
def test_parts_add_up_to_the_whole(judges, opposed):
  model = opposed if judges else build(jax.random.key(0))
  batch, keys = pictures(), jax.random.split(jax.random.key(1), 4)
  normalizers = objective().normalizers(batch, STEP)
  whole = loss_of(model, batch, keys, normalizers)
  pieces = [
    loss_of(model, part(batch, i, 2), part(keys, i, 2), normalizers) for i in range(2)
  ]
  summed = loss.add(jax.tree.map(lambda *leaves: jnp.stack(leaves), *pieces))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, summed)


def test_psnr_of_known_errors():
  x = jnp.zeros((3, 2, 2, 3))
  y = jnp.stack([x[0], x[1] + 0.2, x[2] + 2.0])
  found = autoencoding.psnr(x, y)
  # 0.2 of 2 is a tenth of the range: 20 dB. 2 is clipped to 1, half the range.
  np.testing.assert_allclose(found, [100.0, 20.0, 20 * np.log10(2)], rtol=1e-5)


def test_psnr_follows_from_the_metric():
  model = build(jax.random.key(0))
  batch, keys = pictures(1), jax.random.split(jax.random.key(1), 1)
  found = loss_of(model, batch, keys, objective().normalizers(batch, STEP))
  y, _, x = sampled(model, batch.images, keys)
  metric = -10 * np.log10(found.metrics['loss_mse'].value)
  np.testing.assert_allclose(autoencoding.psnr(x, y)[0], metric, rtol=1e-5)


def test_learns_to_draw_a_few_pictures():
  definition, params = module.split(build(jax.random.key(0)))
  batch, rule = pictures(), objective(1e-4)

  def error(params, key):
    found = rule(
      definition.bind(params),
      batch,
      jax.random.split(key, 4),
      rule.normalizers(batch, STEP),
    )
    return found.total, found.metrics['loss_mse'].value

  def step(state, key):
    # Signs of a running mean of gradients: the simplest rule that needs no tuning.
    params, running, rate = state
    (_, mse), gradient = jax.value_and_grad(error, has_aux=True)(params, key)
    running = jax.tree.map(lambda r, g: 0.9 * r + 0.1 * g, running, gradient)
    params = jax.tree.map(lambda p, r: p - rate * jnp.sign(r), params, running)
    return (params, running, rate * 0.985), mse

  start = (params, jax.tree.map(jnp.zeros_like, params), jnp.float32(5e-3))
  keys = jax.random.split(jax.random.key(2), 200)
  _, mse = jax.jit(lambda start: jax.lax.scan(step, start, keys))(start)
  assert float(mse[0]) > 0.03
  assert -10 * np.log10(float(mse[-1])) > 20


@pytest.mark.parametrize('weight', [0.0, 1e-6])
def test_gradients_are_finite(weight):
  definition, params = module.split(build(jax.random.key(0)))
  batch, rule = pictures(), objective(weight)
  keys = jax.random.split(jax.random.key(1), 4)

  def total(params):
    return rule(
      definition.bind(params), batch, keys, rule.normalizers(batch, STEP)
    ).total

  gradient = jax.jit(jax.grad(total))(params)
  assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient))
