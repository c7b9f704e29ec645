"""Cross-entropy in nats."""

import jax
import jax.numpy as jnp
import numpy as np

from transfusion_jax.ops import cross_entropy


def test_equals_minus_the_log_of_the_softmax():
  logits = jax.random.normal(jax.random.key(0), (2, 3, 5)) * 4.0
  targets = jnp.array([[0, 4, 2], [1, 1, 3]])
  p = np.exp(np.asarray(logits, np.float64))
  p = p / p.sum(-1, keepdims=True)
  expected = -np.log(np.take_along_axis(p, np.asarray(targets)[..., None], -1)[..., 0])
  found = cross_entropy.cross_entropy(logits, targets)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_is_computed_in_float32_and_does_not_overflow():
  low = (jax.random.normal(jax.random.key(0), (4, 300)) * 300.0).astype(jnp.bfloat16)
  targets = jnp.zeros(4, jnp.int32)
  found = cross_entropy.cross_entropy(low, targets)
  assert found.dtype == jnp.float32
  high = cross_entropy.cross_entropy(low.astype(jnp.float32), targets)
  np.testing.assert_array_equal(found, high)
  assert bool(jnp.isfinite(found).all())


def test_unused_rows_at_minus_1e9_count_for_nothing():
  logits = jnp.array([[1.0, 2.0, -1e9]])
  found = cross_entropy.cross_entropy(logits, jnp.array([0]))
  np.testing.assert_allclose(found, np.log1p(np.exp(1.0)), rtol=1e-6)
