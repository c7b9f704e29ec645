"""Span attention: one contract, many backends.

    o_i = sum_k softmax_k(q_i . k_k / sqrt(d)) v_k   over   start_i <= k < end_i   (1)

A query whose span is empty gives zeros. Heads come before positions in every array,
from projection to projection, since transposing around each attention is costly on a
TPU.

Backends:
  xla_dense: the reference; all scores at once, memory that grows with q k.
  xla_chunked: the same a few queries at a time, computed again for the gradient; memory
    that grows with k. For pictures, all of which is visible: the compiler divides it
    between devices like anything else.
  xla_blocks: skips what no query of a block sees (`ops/attention_xla.py`); work that
    grows with what is visible, memory with the length.
  xla: dense for short rows, else blocks.
  tpu: a kernel that skips likewise (`ops/attention_tpu.py`); few queries, as in
    decoding, go to `xla`. It compiles for TPUs only.
  gpu: a library's kernel (`ops/attention_gpu.py`) where there is one, else `xla`.

On a mesh, `xla_blocks` and `tpu` belong inside `jax.shard_map`, with rows and heads
split.
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
"""Pixels of a picture from which not all of its scores are held at once."""

_WIDEST = 1024
"""Bytes of a query from which the kernel's blocks outgrow the fast memory."""

_CHUNK = 256
"""Queries that `xla_chunked` takes at a time."""

_SKIPS_FROM = {'xla': 256, 'xla_blocks': 1, 'tpu': 128, 'gpu': 256}
"""Queries, and keys, from which a backend skips; below, what it does is dense."""


def prepare(
  span: span_lib.Span, keys: int, *, backend: Backend
) -> span_lib.Span | schedule.Plan:
  """What `attend` takes in place of the spans when it is called many times with them.

  What skips needs to know which blocks of keys its blocks of queries see. `attend`
  finds out from the spans at every call; in a scan over layers that would be once per
  layer, and again in the backward pass. A model prepares the spans once, before the
  scan. What does not skip takes the spans as they are.

  Args:
    span: start and end of each query's keys, [b, q].
    keys: number of keys, for example the length of the cache.
    backend: the backend that `attend` will be given.
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


def within(q: Float[Array, 'b h n d'], *, backend: Backend) -> Backend:
  """The backend of `attend_all` for pictures, where rows are attended for by `backend`.

  Small pictures take the dense reference and large ones `xla_chunked`; but for `tpu`
  large ones take its kernel, unless a head is too wide for fast memory.
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
  """Attention (1) of every query to every key, as within pictures.

  Args:
    q: queries.
    k: keys, as many as queries.
    v: values.
    backend: what `within` chose.
  """
  b, _, n, _ = q.shape
  start = jnp.zeros((b, n), jnp.int32)
  span = span_lib.Span(start, start + n)
  if backend != 'tpu':
    return attend(q, k, v, span, backend=backend)
  return attention_tpu.attend(q, k, v, schedule.plan(span, n), visible=1.0)


def _attend_planned(q, k, v, span, *, backend):
  """What skips, where `prepare` finds it worth while, else the dense reference."""
  if not isinstance(span, schedule.Plan):
    span = prepare(span, k.shape[2], backend=backend)
  if not isinstance(span, schedule.Plan):
    return _kept(_attend_dense(q, k, v, span))
  skipping = attention_tpu if backend == 'tpu' else attention_xla
  return skipping.attend(q, k, v, span)


def _attend_dense(q, k, v, span):
  """Dense reference: the mask in full, softmax in float32."""
  b, h, n, d = q.shape
  groups = k.shape[1]
  if n == 1:
    return _attend_one(q, k, v, span)
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


def _attend_one(q, k, v, span):
  """The same for one query, as in decoding.

  Scores stand keys by heads: then no product turns the keys round, which for one query
  would cost as much as the product itself.
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


def _attend_gpu(q, k, v, span):
  """The library's kernel for what it takes."""
  if isinstance(span, span_lib.Span) and attention_gpu.takes(q):
    return _kept(attention_gpu.attend(q, k, v, span))
  return _attend_planned(q, k, v, span, backend='xla')


def _kept(o):
  """Names what a remat policy may save, as backends that skip blocks do themselves."""
  return jax.ad_checkpoint.checkpoint_name(o, 'attention')


_BACKENDS = {
  'xla_dense': lambda *arguments: _kept(_attend_dense(*arguments)),
  'xla_chunked': lambda *arguments: _kept(_attend_chunked(*arguments)),
  'gpu': _attend_gpu,
  **{
    name: functools.partial(_attend_planned, backend=name)
    for name in ('xla', 'xla_blocks', 'tpu')
  },
}
