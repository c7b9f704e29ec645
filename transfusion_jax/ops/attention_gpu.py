"""Span attention on a GPU: the kernel of tokamax, whose masks are spans.

Its flash attention for Hopper (Pallas on Mosaic) reads the first key and the end of
every query, skips blocks in the forward pass, and keeps O(L) numbers for the backward
pass. The public function of the package has no argument for spans, so that the
operation and its mask are imported from its private modules (the same in 0.0.12 to
0.0.17).

This file has not run on a GPU. Its calls were checked on a CPU, against the package's
reference implementation of the same operation.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transfusion_jax.core import log
from transfusion_jax.ops import schedule
from transfusion_jax.ops import span as span_lib

_BLOCK = 128
"""Lengths are padded to a multiple of this; blocks of the kernel are no larger."""

_HEAD_DIM = 128
"""The widest head whose gradient the package tests."""

_CAPABILITIES = (9,)
"""Generations of GPUs that the kernel is taken on: Hopper. On Blackwell 0.0.12 asks for
more shared memory than there is."""


def kernel() -> tuple[Any, Any] | None:
  """Operation of tokamax and type of its mask; None, logged once, if unavailable."""
  if jax.default_backend() != 'gpu':
    return _without('there is no GPU')
  capability = jax.local_devices()[0].compute_capability
  if int(float(capability)) not in _CAPABILITIES:
    return _without(f'the kernel is not for GPUs of compute capability {capability}')
  try:
    from tokamax._src.ops.attention import api, base

    return api.IMPLEMENTATIONS['mosaic_gpu'], base.Mask
  except (ImportError, AttributeError, KeyError) as error:
    return _without(f'tokamax does not offer its kernel ({error!r})')


def takes(q: Float[Array, 'b h q d']) -> bool:
  """True if the kernel is available and supports the type and width of the heads."""
  if kernel() is None:
    return False
  if q.dtype == jnp.bfloat16 and q.shape[3] <= _HEAD_DIM:
    return True
  _without(f'the kernel is not for {q.dtype} heads of {q.shape[3]}')
  return False


def attend(
  q: Float[Array, 'b h q d'],
  k: Float[Array, 'b g k d'],
  v: Float[Array, 'b g k d'],
  span: span_lib.Span,
) -> Float[Array, 'b h q d']:
  """Attention over spans; see `attention.attend`.

  The operation expects positions before heads. A query that sees nothing gets one key,
  and zeros replace its output: the operation does not define the softmax of no keys.

  Args:
    q: queries that `takes` accepts.
    k: keys.
    v: values.
    span: start and end of each query's keys, [b, q].
  """
  operation, mask = kernel()
  queries, keys = q.shape[2], k.shape[2]
  start, end = jnp.clip(span.start, 0, keys), jnp.clip(span.end, 0, keys)
  empty = end <= start
  start = jnp.minimum(start, keys - 1)
  bounds = start, jnp.where(empty, start + 1, end)
  more = -queries % _BLOCK
  start, end = (jnp.pad(x, ((0, 0), (0, more)), mode='edge')[:, None] for x in bounds)
  q, k, v = (jnp.swapaxes(schedule.pad(x, _BLOCK), 1, 2) for x in (q, k, v))
  o = operation(q, k, v, mask=mask(k_start=start, k_end=end))
  o = jnp.swapaxes(o, 1, 2)[:, :, :queries]
  return jnp.where(empty[:, None, :, None], jnp.zeros_like(o), o)


def _without(reason):
  log.once(f"attention 'xla' instead of 'gpu': {reason}")
