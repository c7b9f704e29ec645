"""Spans: the attention mask as two numbers per query.

Query `i` sees the keys `start[i] <= k < end[i]`. For text `end = i + 1`; for a patch
`end` is the end of its image; `start` is the start of the document. `start == end` is
padding, which sees nothing. A mask of L x L booleans becomes 2 L integers, which cover
causal text, bidirectional images and packed documents (Transfusion, section 3.2).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from transfusion_jax.core import tree


@tree.struct
class Span:
  """Range of keys that each query sees.

  Attributes:
    start: first key seen.
    end: one past the last key seen; equal to `start` for padding.
  """

  start: Int[Array, '*b q']
  end: Int[Array, '*b q']


def visible(span: Span, keys: int) -> Bool[Array, '*b q {keys}']:
  """Boolean mask of spans; only the reference attention builds it."""
  k = jnp.arange(keys).reshape((1,) * span.start.ndim + (keys,))
  return (span.start[..., None] <= k) & (k < span.end[..., None])
