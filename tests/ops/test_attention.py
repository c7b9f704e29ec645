"""Span attention: what it depends on, and the numbers of a dense softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transfusion_jax.ops import attention, span

B, H, G, Q, K, D = 2, 4, 2, 6, 7, 8


def random_inputs(seed=0):
  keys = jax.random.split(jax.random.key(seed), 4)
  q = jax.random.normal(keys[0], (B, H, Q, D))
  k = jax.random.normal(keys[1], (B, G, K, D))
  v = jax.random.normal(keys[2], (B, G, K, D))
  ends = jax.random.randint(keys[3], (2, B, Q), 0, K + 1)
  start, end = jnp.min(ends, axis=0), jnp.max(ends, axis=0)
  end = end.at[:, 0].set(start[:, 0])  # at least one query that sees nothing
  return q, k, v, span.Span(start, end)


@jax.jit
def attend(q, k, v, spans):
  return attention.attend(q, k, v, spans, backend='xla')


@jax.jit
def slopes(q, k, v, spans):
  """How strongly each output depends on each key and each value: two [b, q, b, k]."""

  def mixed(k, v):
    return jnp.sum(jnp.sin(attend(q, k, v, spans) * 3.0 + 1.0), axis=(1, 3))

  by_key, by_value = jax.jacrev(mixed, argnums=(0, 1))(k, v)
  return jnp.abs(by_key).sum((3, 5)), jnp.abs(by_value).sum((3, 5))


def test_gradient_is_non_zero_iff_the_key_is_in_the_span():
  for seed in range(3):
    q, k, v, spans = random_inputs(seed)
    by_key, by_value = slopes(q, k, v, spans)
    j = np.arange(K)
    start, end = np.asarray(spans.start)[..., None], np.asarray(spans.end)[..., None]
    seen = (start <= j) & (j < end)
    # A query that sees one key cannot depend on it: its softmax is 1 whatever it is.
    by_itself = end - start == 1
    own_row = np.eye(B, dtype=bool)[:, None, :, None]
    expected = seen[:, :, None] & own_row
    np.testing.assert_array_equal(np.asarray(by_value) > 0, expected)
    expected &= ~by_itself[:, :, None]
    np.testing.assert_array_equal(np.asarray(by_key) > 1e-9, expected)


def test_queries_without_keys_are_zero_and_nothing_is_nan():
  q, k, v, spans = random_inputs()
  out = np.asarray(attend(q, k, v, spans))
  empty = np.asarray(spans.start == spans.end)
  assert empty.any()
  assert (np.moveaxis(out, 1, 2)[empty] == 0).all()
  gradients = jax.grad(
    lambda *qkv: jnp.sum(attend(*qkv, spans) ** 2), argnums=(0, 1, 2)
  )(q, k, v)
  assert all(bool(jnp.isfinite(g).all()) for g in (out, *gradients))
  by_query = np.moveaxis(np.asarray(gradients[0]), 1, 2)
  assert (by_query[empty] == 0).all()
  assert (by_query[~empty] != 0).any()


def test_equals_a_dense_softmax_in_float64():
  q, k, v, spans = random_inputs(1)
  out = np.asarray(attend(q, k, v, spans))
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  for b in range(B):
    for h in range(H):
      for i in range(Q):
        seen = slice(int(spans.start[b, i]), int(spans.end[b, i]))
        keys, values = k[b, h // (H // G), seen], v[b, h // (H // G), seen]
        weights = np.exp(keys @ q[b, h, i] / np.sqrt(D))
        expected = weights @ values / max(weights.sum(), 1e-300)
        np.testing.assert_allclose(out[b, h, i], expected, atol=2e-6)


def test_large_scores_do_not_overflow():
  q, k, v, spans = random_inputs()
  out = attend(1e4 * q, 1e4 * k, v, spans)
  assert bool(jnp.isfinite(out).all())


def test_bfloat16_stays_bfloat16_and_close():
  q, k, v, spans = random_inputs()
  low = attention.attend(
    *(x.astype(jnp.bfloat16) for x in (q, k, v)), spans, backend='xla'
  )
  assert low.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.asarray(low, np.float32), np.asarray(attend(q, k, v, spans)), atol=0.06
  )


def test_heads_that_do_not_divide_are_an_error():
  q, k, v, spans = random_inputs()
  with pytest.raises(ValueError, match='found 3 and 2'):
    attention.attend(q[:, :3], k, v, spans, backend='xla')
