"""The autoencoder: shapes, its posterior, its size and the scale of its latents."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.core import axes, tree
from transfusion_jax.models import module
from transfusion_jax.models.codecs import kl


@functools.cache
def built():
  """A model with every parameter in use, zeros included; NumPy need not compile."""
  settings, random = tiny.autoencoder_config(middle=True), np.random.default_rng(0)
  plan = module.blueprint(lambda rngs: kl.Autoencoder(rngs, settings))
  params = jax.tree.map(
    lambda leaf: jnp.asarray(0.3 * random.normal(size=leaf.shape), jnp.float32),
    plan.shapes,
  )
  return plan.definition.bind(params)


@jax.jit
def both(model, x):
  posterior = model.encode(x)
  return posterior, model.decode(posterior.mean)


@pytest.mark.parametrize(
  ('changes', 'factor'),
  [
    ({'patch': 1, 'multipliers': (1,)}, 1),
    ({'patch': 1, 'multipliers': (1, 2, 2), 'middle': True}, 4),
    ({'patch': 2, 'multipliers': (1, 1, 2)}, 8),
    ({'patch': 8, 'multipliers': (2,), 'encoder_blocks': 2}, 8),
    ({'patch': 4, 'multipliers': (1, 1, 1), 'decoder_blocks': 2}, 16),
  ],
)
def test_shapes(changes, factor):
  settings = tiny.autoencoder_config(**changes)
  assert settings.factor == factor
  plan = module.blueprint(lambda rngs: kl.Autoencoder(rngs, settings))
  x = jax.ShapeDtypeStruct((2, 16, 32, 3), jnp.bfloat16)
  run = lambda params, x: both(plan.definition.bind(params), x)  # noqa: E731
  posterior, y = jax.eval_shape(run, plan.shapes, x)
  assert posterior.mean.shape == (2, 16 // factor, 32 // factor, 3)
  assert posterior.log_variance.shape == posterior.mean.shape
  assert y.shape == x.shape
  assert posterior.mean.dtype == y.dtype == jnp.bfloat16


def test_sides_must_divide():
  model = built()
  with pytest.raises(ValueError, match=r'sides divide by 4, .* found 8 x 10'):
    model.encode(jnp.zeros((1, 8, 10, 3)))


def test_widths_must_divide_into_groups():
  settings = tiny.autoencoder_config(groups=5)
  with pytest.raises(ValueError, match='divide into 5 groups, found 8'):
    module.blueprint(lambda rngs: kl.Autoencoder(rngs, settings))


def test_pictures_do_not_see_each_other():
  model = built()
  x = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3), minval=-1.0)
  before, y = both(model, x)
  after, z = both(model, x.at[1].multiply(-1.0))
  np.testing.assert_array_equal(before.mean[0], after.mean[0])
  np.testing.assert_array_equal(y[0], z[0])
  assert not np.allclose(before.mean[1], after.mean[1])


def test_windows_are_joined_by_matrices():
  settings = tiny.autoencoder_config(multipliers=(1, 2), patch=2, latent_channels=3)
  plan = module.blueprint(lambda rngs: kl.Autoencoder(rngs, settings))
  encoder, decoder = plan.shapes['encoder'], plan.shapes['decoder']
  assert encoder['shrink']['0']['conv']['kernel'].shape == (1, 1, 4 * 8, 16)
  assert decoder['enlarge']['0']['conv']['kernel'].shape == (1, 1, 16, 4 * 8)
  assert encoder['exit']['kernel'].shape == (1, 1, 16, 6)
  assert decoder['entry']['kernel'].shape == (1, 1, 3, 16)


def test_pixels_are_the_inverse_of_windows():
  x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
  windows = kl._windows(x, 2)
  np.testing.assert_array_equal(windows[0, 1, 2], x[0, 2:4, 4:6].reshape(-1))
  np.testing.assert_array_equal(kl._pixels(windows, 2), x)


def test_log_variance_is_clipped():
  model = built()
  definition, params = module.split(model)
  bias = params['encoder']['exit']['bias']
  params['encoder']['exit']['bias'] = bias.at[3:].set(jnp.array([99.0, -99.0, 0]))
  posterior, _ = both(definition.bind(params), jnp.zeros((2, 8, 8, 3)))
  logarithm = posterior.log_variance
  assert logarithm.max() == 20.0
  assert logarithm.min() == -30.0


def test_sample_has_the_posteriors_moments():
  mean = jnp.full((2, 32, 32, 2), jnp.float32(3.0))
  posterior = kl.Posterior(mean, jnp.full_like(mean, np.log(0.25)))
  z = posterior.sample(jax.random.split(jax.random.key(0), 2))
  np.testing.assert_allclose(z.mean(axis=(1, 2, 3)), 3.0, atol=0.05)
  np.testing.assert_allclose(z.std(axis=(1, 2, 3)), 0.5, atol=0.05)
  assert not np.allclose(z[0], z[1])


def test_a_rows_sample_depends_on_its_key_only():
  mean = jnp.zeros((4, 2, 2, 1))
  posterior = kl.Posterior(mean, mean)
  keys = jax.random.split(jax.random.key(0), 4)
  half = kl.Posterior(mean[2:], mean[2:])
  np.testing.assert_array_equal(posterior.sample(keys)[2:], half.sample(keys[2:]))


def test_divergence_equals_the_integral():
  mean, logarithm = 0.7, -0.9
  x = np.linspace(-12, 12, 20_001)
  log_q = -0.5 * (x - mean) ** 2 / np.exp(logarithm) - 0.5 * logarithm
  integrand = np.exp(log_q) * (log_q + 0.5 * x**2) / np.sqrt(2 * np.pi)
  expected = np.sum(integrand) * (x[1] - x[0])
  one = jnp.ones((1, 1, 1, 1))
  found = kl.Posterior(mean * one, logarithm * one).divergence()
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  assert kl.Posterior(0 * one, 0 * one).divergence() == 0.0


def paper():
  settings = tiny.autoencoder_config(
    channels=128,
    multipliers=(1, 2, 4, 4),
    encoder_blocks=2,
    decoder_blocks=3,
    middle=True,
    latent_channels=8,
    latent_convs=True,
    groups=32,
    patch=1,
  )
  return module.blueprint(lambda rngs: kl.Autoencoder(rngs, settings))


def test_size_of_the_papers_layout():
  plan = paper()
  assert tree.size(plan.shapes) == pytest.approx(83.7e6, rel=0.005)
  x = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.bfloat16)
  run = lambda params, x: both(plan.definition.bind(params), x)  # noqa: E731
  posterior, y = jax.eval_shape(run, plan.shapes, x)
  assert posterior.mean.shape == (1, 32, 32, 8)
  assert y.shape == x.shape


def test_every_parameter_can_be_sharded():
  plan = paper()
  sizes = {'data': 1, 'fsdp': 2, 'tensor': 2}
  specs = jax.tree.map(
    lambda leaf, names: axes.spec(names, leaf.shape, sizes), plan.shapes, plan.axes
  )
  assert specs['encoder']['middle']['before']['conv_in']['kernel'] == (
    jax.sharding.PartitionSpec(None, None, 'fsdp', 'tensor')
  )


def test_measured_scale_equals_that_of_all_latents_at_once():
  pieces = [
    100.0 + np.random.default_rng(i).normal(i, 0.1 + i, (i + 1, 2, 2, 3))
    for i in range(4)
  ]
  shift, scale = kl.measure(jnp.asarray, iter(pieces))
  whole = np.concatenate(pieces).reshape(-1, 3)
  np.testing.assert_allclose(shift, whole.mean(axis=0), rtol=1e-6)
  np.testing.assert_allclose(scale, whole.std(axis=0), rtol=1e-5)


def test_an_unused_channel_does_not_divide_by_zero():
  shift, scale = kl.measure(jnp.asarray, [np.full((1, 2, 2, 1), 3.0)])
  assert shift == 3.0
  assert scale > 0


def test_measuring_nothing_is_an_error():
  with pytest.raises(ValueError, match='found none'):
    kl.measure(jnp.asarray, [])
