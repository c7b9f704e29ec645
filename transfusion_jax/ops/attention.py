"""Span attention: one contract, many backends.

    o_i = sum_k softmax_k(q_i . k_k / sqrt(d)) v_k   over   start_i <= k < end_i   (1)

A query whose span is empty gives zeros. Heads come before positions in every array,
from projection to projection, since transposing around each attention is costly on a
TPU.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transfusion_jax.ops import span as span_lib

Backend = Literal['xla']


def attend(
  q: Float[Array, 'b h q d'],
  k: Float[Array, 'b g k d'],
  v: Float[Array, 'b g k d'],
  span: span_lib.Span,
  *,
  backend: Backend,
) -> Float[Array, 'b h q d']:
  """Attention (1) of `h` query heads over `g` key and value heads, `g` dividing `h`.

  Args:
    q: queries.
    k: keys; head `j` of the queries uses head `j // (h / g)` of the keys.
    v: values.
    span: start and end of each query's keys, [b, q], as indices into the keys.
    backend: which implementation; `xla` is the reference.

  Raises:
    ValueError: the backend is unknown, or the heads do not divide.
  """
  if q.shape[1] % k.shape[1]:
    raise ValueError(
      f'expected query heads that divide by the key heads, found {q.shape[1]} and '
      f'{k.shape[1]}; change model.heads or model.kv_heads'
    )
  if backend not in _BACKENDS:
    raise ValueError(
      f'expected an attention backend of {sorted(_BACKENDS)}, found {backend!r}; '
      'change model.attention'
    )
  return _BACKENDS[backend](q, k, v, span)


def _attend_xla(q, k, v, span):
  """Dense reference: the mask in full, softmax in float32."""
  b, h, n, d = q.shape
  groups = k.shape[1]
  q = q.reshape(b, groups, h // groups, n, d)
  scores = jnp.einsum('bgrqd,bgkd->bgrqk', q, k, preferred_element_type=jnp.float32)
  mask = span_lib.visible(span, k.shape[2])[:, None, None]
  scores = jnp.where(mask, scores * d**-0.5, -jnp.inf)
  top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
  weights = jnp.exp(scores - jnp.where(jnp.isfinite(top), top, 0.0))
  total = jnp.sum(weights, axis=-1, keepdims=True)
  weights = weights / jnp.where(total > 0, total, 1.0)
  out = jnp.einsum('bgrqk,bgkd->bgrqd', weights.astype(v.dtype), v)
  return out.reshape(b, h, n, d)


_BACKENDS = {'xla': _attend_xla}
