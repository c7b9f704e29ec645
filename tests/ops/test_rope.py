"""Rotary positions: only differences of positions matter; the kernel does the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from transfusion_jax.ops import rope, rope_tpu

D = 8
KERNEL = {
  # type, rows, heads, positions, head dim
  'usual': (jnp.bfloat16, 2, 4, 256, 128),
  'narrow': (jnp.bfloat16, 1, 12, 512, 64),
  'wide': (jnp.float32, 1, 3, 384, 256),
  'float32': (jnp.float32, 2, 2, 1024, 128),
}

rotate = functools.partial(rope.rotate, backend='xla')


def at(x, position):
  """`x` [d] rotated to a position."""
  by = rope.rotation(jnp.full((1, 1), position), head_dim=D, base=100.0)
  return rotate(x[None, None, None], by)[0, 0, 0]


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
  both = np.concatenate([expected, expected], axis=1)
  signed = np.concatenate([-np.sin(expected), np.sin(expected)], axis=1)
  np.testing.assert_allclose(by.cos[0, 0], np.cos(both), rtol=1e-6)
  np.testing.assert_allclose(by.sin[0, 0], signed, rtol=1e-6, atol=1e-7)
  x = jnp.array([1.0, 0.0, 0.0, 0.0])
  rotated = rotate(x[None, None, None].repeat(3, axis=2), by)[0, 0]
  np.testing.assert_allclose(rotated[:, 0], np.cos(expected[:, 0]), rtol=1e-6)
  np.testing.assert_allclose(
    rotated[:, 2], np.sin(expected[:, 0]), rtol=1e-6, atol=1e-7
  )


def test_bfloat16_is_rotated_in_float32():
  x = jax.random.normal(jax.random.key(0), (1, 2, 4, D)).astype(jnp.bfloat16)
  by = rope.rotation(jnp.arange(4)[None] + 4000, head_dim=D, base=1e4)
  low = rotate(x, by)
  assert low.dtype == jnp.bfloat16
  high = rotate(x.astype(jnp.float32), by)
  np.testing.assert_array_equal(low, high.astype(jnp.bfloat16))


@pytest.mark.parametrize('name', KERNEL)
def test_the_kernel_equals_it_in_values_and_gradients(name):
  """Under the strict interpreter: what is not written is NaN."""
  dtype, b, h, t, d = KERNEL[name]
  x, dy = jax.random.normal(jax.random.key(0), (2, b, h, t, d)).astype(dtype)
  position = jax.random.randint(jax.random.key(1), (b, t), 0, 4096)
  by = rope.rotation(position, head_dim=d, base=1e4)
  assert rope_tpu.takes(x)

  def both(x, dy, *, backend):
    y, pull = jax.vjp(lambda x: rope.rotate(x, by, backend=backend), x)
    return y, *pull(dy)

  expected = both(x, dy, backend='xla')
  with pltpu.force_tpu_interpret_mode():
    found = jax.jit(functools.partial(both, backend='tpu'))(x, dy)
  # One rounding apart, where a multiplication and an addition are made in one.
  step = jnp.finfo(dtype).eps * 4
  for one, other in zip(found, expected, strict=True):
    assert one.dtype == dtype
    np.testing.assert_allclose(
      *(np.asarray(each, np.float32) for each in (one, other)), rtol=step, atol=step
    )


@pytest.mark.parametrize(
  'shape', [(1, 2, 1, 128), (1, 2, 200, 128), (1, 2, 256, 24), (1, 2, 128, 192)]
)
def test_what_the_kernel_does_not_take_goes_to_xla(shape):
  x = jax.random.normal(jax.random.key(0), shape)
  by = rope.rotation(jnp.arange(shape[2])[None], head_dim=shape[3], base=1e4)
  assert not rope_tpu.takes(x)
  np.testing.assert_array_equal(rope.rotate(x, by, backend='tpu'), rotate(x, by))
