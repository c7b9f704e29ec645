"""Rotary positions: only differences of positions matter."""

import jax
import jax.numpy as jnp
import numpy as np

from transfusion_jax.ops import rope

D = 8


def at(x, position):
  """`x` [d] rotated to a position."""
  by = rope.rotation(jnp.full((1, 1), position), head_dim=D, base=100.0)
  return rope.rotate(x[None, None, None], by)[0, 0, 0]


def test_scores_depend_on_the_difference_of_positions_alone():
  q, k = jax.random.normal(jax.random.key(0), (2, D))
  scores = [float(at(q, i + 5) @ at(k, i)) for i in (0, 3, 40)]
  np.testing.assert_allclose(scores, scores[0], rtol=1e-4)
  assert abs(float(at(q, 6) @ at(k, 0)) - scores[0]) > 1e-2


def test_position_zero_is_the_identity_and_norms_are_kept():
  x = jax.random.normal(jax.random.key(0), (D,))
  np.testing.assert_array_equal(at(x, 0), x)
  np.testing.assert_allclose(jnp.linalg.norm(at(x, 9)), jnp.linalg.norm(x), rtol=1e-6)


def test_angles():
  by = rope.rotation(jnp.array([[0, 1, 2]]), head_dim=4, base=100.0)
  expected = np.arange(3)[:, None] * np.array([1.0, 0.1])
  np.testing.assert_allclose(by.cos[0, 0], np.cos(expected), rtol=1e-6)
  np.testing.assert_allclose(by.sin[0, 0], np.sin(expected), rtol=1e-6, atol=1e-7)
  x = jnp.array([1.0, 0.0, 0.0, 0.0])
  rotated = rope.rotate(x[None, None, None].repeat(3, axis=2), by)[0, 0]
  np.testing.assert_allclose(rotated[:, 0], np.cos(expected[:, 0]), rtol=1e-6)
  np.testing.assert_allclose(
    rotated[:, 2], np.sin(expected[:, 0]), rtol=1e-6, atol=1e-7
  )


def test_bfloat16_is_rotated_in_float32():
  x = jax.random.normal(jax.random.key(0), (1, 2, 4, D)).astype(jnp.bfloat16)
  by = rope.rotation(jnp.arange(4)[None] + 4000, head_dim=D, base=1e4)
  low = rope.rotate(x, by)
  assert low.dtype == jnp.bfloat16
  high = rope.rotate(x.astype(jnp.float32), by)
  np.testing.assert_array_equal(low, high.astype(jnp.bfloat16))
