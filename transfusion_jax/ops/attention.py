"""Span attention: one contract, many backends.

    o_i = sum_k softmax_k(q_i . k_k / sqrt(d)) v_k   over   start_i <= k < end_i   (1)

A query with an empty span gives zeros. In every array heads come before positions, from
the input projection to the output projection: transposing around every attention is
slow on a TPU.

Backends:
  xla_dense: the reference: all scores at once; memory grows with q k.
  xla_chunked: dense for a chunk of queries at a time, recomputed for the gradient;
    memory grows with k. For images, where every key is visible; the compiler shards it.
  xla_blocks: skips pairs of blocks without a visible key (`ops/attention_xla.py`); work
    grows with the visible pairs, memory with the length.
  xla: `xla_dense` for short rows, `xla_blocks` for others.
  tpu: Pallas kernel that skips the same pairs (`ops/attention_tpu.py`); few queries, as
    in decoding, are computed densely. It compiles for TPUs only.
  gpu: the kernel of tokamax (`ops/attention_gpu.py`) if it is available, else `xla`.

On a mesh, `xla_blocks` and `tpu` must run inside `jax.shard_map`, which divides rows
and heads (`ops/context.py`).
"""

import functools
import math
from typing import Literal

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
from jaxtyping import Array, Float

from transfusion_jax.ops import attention_gpu, attention_tpu, attention_xla, schedule
from transfusion_jax.ops import span as span_lib

Backend = Literal['xla', 'xla_dense', 'xla_chunked', 'xla_blocks', 'tpu', 'gpu']

_LARGE = 1024
"""Positions of an image from which its scores are not all held at once."""

_WIDEST = 1024
"""Bytes per query up to which the blocks of the kernel fit into fast memory."""

_CHUNK = 256
"""Queries in a chunk of `xla_chunked`."""

_SKIPS_FROM = {'xla': 256, 'xla_blocks': 1, 'tpu': 128, 'gpu': 256}
"""Number of queries and of keys from which a backend skips blocks; fewer are dense."""


def prepare(
  span: span_lib.Span, keys: int, *, backend: Backend
) -> span_lib.Span | schedule.Plan:
  """Computes the block schedule of spans once, for many calls of `attend`.

  Backends that skip need a schedule: which blocks of queries see which blocks of keys.
  Given spans, `attend` computes it in every call; in a scan over layers that is once
  per layer, and again in the backward pass. A model therefore prepares its spans before
  the scan. Dense backends use the spans, which are then returned unchanged.

  Args:
    span: start and end of each query's keys, [b, q].
    keys: number of keys, for example the length of the cache.
    backend: backend of the later calls of `attend`.
  """
  if backend == 'gpu' and attention_gpu.kernel() is not None:
    return span
  queries = span.start.shape[1]
  if min(queries, keys) < _SKIPS_FROM.get(backend, math.inf):
    return span
  blocks = schedule.blocks if backend == 'tpu' else attention_xla.blocks
  return schedule.plan(span, keys, blocks(queries, keys))


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
    span: start and end of each query's keys, [b, q], as indices into the keys; or the
      result of `prepare` for the same backend.
    backend: implementation to use.

  Raises:
    ValueError: the backend is unknown, or `g` does not divide `h`.
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
  return _BACKENDS[backend](q, k, v, span=span)


def within(q: Float[Array, 'b h n d'], *, backend: Backend) -> Backend:
  """Chooses the backend of `attend_all` for images, given the backend for rows.

  Small images use the dense reference, large ones `xla_chunked`. With `tpu`, large ones
  use its kernel, unless a head is too wide for fast memory.
  """
  _, _, n, d = q.shape
  if n < _LARGE:
    return 'xla_dense'
  kernel = backend == 'tpu' and d * q.dtype.itemsize <= _WIDEST
  return 'tpu' if kernel else 'xla_chunked'


def attend_all(
  q: Float[Array, 'b h n d'],
  k: Float[Array, 'b h n d'],
  v: Float[Array, 'b h n d'],
  *,
  backend: Backend,
) -> Float[Array, 'b h n d']:
  """Attention (1) of every query to every key, as within images.

  Args:
    q: queries.
    k: keys, as many as queries.
    v: values.
    backend: result of `within`.
  """
  b, _, n, _ = q.shape
  start = jnp.zeros((b, n), jnp.int32)
  span = span_lib.Span(start, start + n)
  if backend != 'tpu':
    return attend(q, k, v, span=span, backend=backend)
  plan = schedule.plan(span, n)
  return attention_tpu.attend(q, k, v, plan=plan, visible=1.0)


def _attend_planned(q, k, v, *, span, backend):
  """Attention that skips blocks if `prepare` plans it, else the dense reference."""
  if not isinstance(span, schedule.Plan):
    span = prepare(span, k.shape[2], backend=backend)
  if not isinstance(span, schedule.Plan):
    return _kept(_attend_dense(q, k, v, span=span))
  skipping = attention_tpu if backend == 'tpu' else attention_xla
  return skipping.attend(q, k, v, plan=span)


def _attend_dense(q, k, v, *, span):
  """Dense reference: the full mask, softmax in float32."""
  b, h, n, d = q.shape
  groups = k.shape[1]
  if n == 1:
    return _attend_one(q, k, v, span=span)
  q = q.reshape(b, groups, h // groups, n, d)
  scores = jnp.einsum('bgrqd,bgkd->bgrqk', q, k, preferred_element_type=jnp.float32)
  mask = span_lib.visible(span, k.shape[2])[:, None, None]
  scores = jnp.where(mask, scores * d**-0.5, -jnp.inf)
  # The maximum cancels in the result, so that no gradient goes through it. For a query
  # that sees nothing it is -inf; 0 in its place makes all weights 0 instead of NaN.
  top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
  weights = jnp.exp(scores - jnp.where(jnp.isfinite(top), top, 0.0))
  total = jnp.sum(weights, axis=-1, keepdims=True)
  weights = weights / jnp.where(total > 0, total, 1.0)
  out = jnp.einsum('bgrqk,bgkd->bgrqd', weights.astype(v.dtype), v)
  return out.reshape(b, h, n, d)


def _attend_one(q, k, v, *, span):
  """Dense attention of a single query, as in decoding.

  Scores are keys by heads: no product then has to transpose the keys, which for one
  query would cost as much as the product itself.
  """
  b, h, _, d = q.shape
  groups = k.shape[1]
  q = q.reshape(b, groups, h // groups, d)
  scores = jnp.einsum('bgkd,bgrd->bgkr', k, q, preferred_element_type=jnp.float32)
  mask = span_lib.visible(span, k.shape[2])[:, 0, :]
  scores = jnp.where(mask[:, None, :, None], scores * d**-0.5, -jnp.inf)
  top = jax.lax.stop_gradient(jnp.max(scores, axis=2, keepdims=True))
  weights = jnp.exp(scores - jnp.where(jnp.isfinite(top), top, 0.0))
  total = jnp.sum(weights, axis=2, keepdims=True)
  weights = weights / jnp.where(total > 0, total, 1.0)
  out = jnp.einsum('bgkr,bgkd->bgrd', weights.astype(v.dtype), v)
  return out.reshape(b, h, 1, d)


def _attend_chunked(q, k, v, *, span):
  """Dense attention for one chunk of queries after the other."""
  b, h, n, d = q.shape
  missing = -n % _CHUNK
  q = jnp.pad(q, ((0, 0), (0, 0), (0, missing), (0, 0)))
  start, end = (jnp.pad(x, ((0, 0), (0, missing))) for x in (span.start, span.end))
  q = jnp.moveaxis(q.reshape(b, h, -1, _CHUNK, d), 2, 0)
  start, end = (jnp.moveaxis(x.reshape(b, -1, _CHUNK), 1, 0) for x in (start, end))

  @jax.checkpoint  # else the scores of all chunks would be kept for the backward pass
  def chunk(inputs):
    q, start, end = inputs
    return _attend_dense(q, k, v, span=span_lib.Span(start, end))

  out = jnp.moveaxis(jax.lax.map(chunk, (q, start, end)), 0, 2)
  return out.reshape(b, h, n + missing, d)[:, :, :n]


def _attend_gpu(q, k, v, *, span):
  """Kernel of tokamax if it supports the inputs, else `xla`."""
  if isinstance(span, span_lib.Span) and attention_gpu.takes(q):
    return _kept(attention_gpu.attend(q, k, v, span=span))
  return _attend_planned(q, k, v, span=span, backend='xla')


def _kept(o):
  """Names the output for remat policies, as backends that skip blocks do themselves."""
  return jax.ad_checkpoint.checkpoint_name(o, 'attention')


_BACKENDS = {
  'xla_dense': lambda q, k, v, span: _kept(_attend_dense(q, k, v, span=span)),
  'xla_chunked': lambda q, k, v, span: _kept(_attend_chunked(q, k, v, span=span)),
  'gpu': _attend_gpu,
  **{
    name: functools.partial(_attend_planned, backend=name)
    for name in ('xla', 'xla_blocks', 'tpu')
  },
}
