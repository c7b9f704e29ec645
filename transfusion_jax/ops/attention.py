"""Span attention: one contract, many backends.

    o_i = sum_k softmax_k(q_i . k_k / sqrt(d)) v_k   over   start_i <= k < end_i   (1)

A query whose span is empty gives zeros. Heads come before positions in every array,
from projection to projection, since transposing around each attention is costly on a
TPU.

Backends:
  xla_dense: the reference; all scores at once, memory that grows with q k.
  xla_chunked: the same a few queries at a time, computed again for the gradient; memory
    that grows with k.
  xla: the first for short rows, the second for long ones.
  tpu: a kernel that skips what no query of a block sees (`ops/attention_tpu.py`); few
    queries, as in decoding, go to `xla`. It compiles for TPUs only; under a mesh it
    belongs inside `jax.shard_map`, with rows and heads split.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transfusion_jax.ops import attention_tpu, schedule
from transfusion_jax.ops import span as span_lib

Backend = Literal['xla', 'xla_dense', 'xla_chunked', 'tpu']

_CHUNK = 256
"""Queries that `xla_chunked` takes at a time."""

_LONG = 1024 * 1024
"""Scores of a head from which `xla` works in chunks."""

_FEW = 128
"""Queries below which `tpu` leaves the work to `xla`."""


def prepare(
  span: span_lib.Span, keys: int, *, backend: Backend
) -> span_lib.Span | schedule.Plan:
  """What `attend` takes in place of the spans when it is called many times with them.

  The kernel needs to know which blocks of keys its blocks of queries see. `attend`
  finds out from the spans at every call; in a scan over layers that would be once per
  layer, and again in the backward pass. A model prepares the spans once, before the
  scan. Other backends take the spans as they are.

  Args:
    span: start and end of each query's keys, [b, q].
    keys: number of keys, for example the length of the cache.
    backend: the backend that `attend` will be given.
  """
  if backend == 'tpu' and span.start.shape[1] >= _FEW:
    return schedule.plan(span, keys)
  return span


def attend(
  q: Float[Array, 'b h q d'],
  k: Float[Array, 'b g k d'],
  v: Float[Array, 'b g k d'],
  span: span_lib.Span | schedule.Plan,
  *,
  backend: Backend,
) -> Float[Array, 'b h q d']:
  """Attention (1) of `h` query heads over `g` key and value heads, `g` dividing `h`.

  Args:
    q: queries.
    k: keys; head `j` of the queries uses head `j // (h / g)` of the keys.
    v: values.
    span: start and end of each query's keys, [b, q], as indices into the keys; or what
      `prepare` made of it for the same backend.
    backend: which implementation.

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
  """Dense where that is faster, which is also where it fits."""
  short = q.shape[2] <= _CHUNK or q.shape[2] * k.shape[2] < _LONG
  return (_attend_dense if short else _attend_chunked)(q, k, v, span)


def _attend_dense(q, k, v, span):
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


def _attend_chunked(q, k, v, span):
  """The dense reference for a few queries after the other."""
  b, h, n, d = q.shape
  missing = -n % _CHUNK
  q = jnp.pad(q, ((0, 0), (0, 0), (0, missing), (0, 0)))
  start, end = (jnp.pad(x, ((0, 0), (0, missing))) for x in (span.start, span.end))
  q = jnp.moveaxis(q.reshape(b, h, -1, _CHUNK, d), 2, 0)
  start, end = (jnp.moveaxis(x.reshape(b, -1, _CHUNK), 1, 0) for x in (start, end))

  @jax.checkpoint
  def chunk(inputs):
    q, start, end = inputs
    return _attend_dense(q, k, v, span_lib.Span(start, end))

  out = jnp.moveaxis(jax.lax.map(chunk, (q, start, end)), 0, 2)
  return out.reshape(b, h, n + missing, d)[:, :, :n]


def _attend_tpu(q, k, v, span):
  """The kernel, for as many queries as make it worth while."""
  if not isinstance(span, schedule.Plan):
    span = prepare(span, k.shape[2], backend='tpu')
  planned = isinstance(span, schedule.Plan)
  return (attention_tpu.attend if planned else _attend_xla)(q, k, v, span)


_BACKENDS = {
  'xla': _attend_xla,
  'xla_dense': _attend_dense,
  'xla_chunked': _attend_chunked,
  'tpu': _attend_tpu,
}
