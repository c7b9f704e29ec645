"""Norms against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np

from transfusion_jax.ops import norm


def test_rms_norm():
  x = jax.random.normal(jax.random.key(0), (2, 3, 8)) * 5.0
  gain = jnp.arange(8.0)
  y = np.asarray(x, np.float64)
  expected = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5) * np.arange(8)
  np.testing.assert_allclose(norm.rms_norm(x, gain, epsilon=1e-5), expected, rtol=1e-5)


def test_rms_norm_of_zeros_is_zero_with_a_finite_gradient():
  zeros, gain = jnp.zeros((1, 4)), jnp.ones(4)
  value, gradient = jax.value_and_grad(
    lambda x: jnp.sum(norm.rms_norm(x, gain, epsilon=1e-5))
  )(zeros)
  assert float(value) == 0.0
  assert bool(jnp.isfinite(gradient).all())


def test_rms_norm_computes_in_float32_and_keeps_the_type():
  x = (jax.random.normal(jax.random.key(0), (4, 512)) * 100.0).astype(jnp.bfloat16)
  found = norm.rms_norm(x, jnp.ones(512), epsilon=1e-5)
  assert found.dtype == jnp.bfloat16
  high = norm.rms_norm(x.astype(jnp.float32), jnp.ones(512), epsilon=1e-5)
  np.testing.assert_array_equal(found, high.astype(jnp.bfloat16))


def test_group_norm():
  x = jax.random.normal(jax.random.key(0), (2, 3, 5, 8)) * 3.0 + 7.0
  gain, bias = jnp.arange(8.0), jnp.arange(8.0) - 3.0
  y = np.asarray(x, np.float64).reshape(2, 15, 4, 2)
  y = (y - y.mean((1, 3), keepdims=True)) / np.sqrt(y.var((1, 3), keepdims=True) + 1e-6)
  expected = y.reshape(x.shape) * np.arange(8) + np.arange(8) - 3.0
  found = norm.group_norm(x, gain, bias, groups=4, epsilon=1e-6)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
