"""Schedules: the pairs of blocks of queries and keys to compute, in order.

A kernel iterates over a list of steps, one for every pair of blocks in which any query
can see any key; the other pairs are neither fetched nor computed. The list is computed
from the spans, on the device, once per batch; every layer reuses it.

A step is one int32: block of queries (13 bits), block of keys (14), flags (4). A list
has room for all pairs of blocks; for rows of up to 131,072 positions these are fewer
than positions. Lists are made by comparisons and sums alone, since gathers and scatters
are slow on a TPU.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from transfusion_jax.core import tree
from transfusion_jax.ops import span as span_lib

FIRST, LAST, WORK, MASK = 1, 2, 4, 8
"""Flags of a step: it is the first, or the last, of its output block; some query may
see some key of the pair; not every query sees every key, so that a mask is needed."""

LEAST = -1e30
"""Initial maximum of an online softmax: below every score, and finite, as -inf - -inf
would be NaN."""

_KEY_SHIFT, _QUERY_SHIFT = 4, 18


class Blocks(NamedTuple):
  """Block sizes: number of queries and of keys of a step."""

  q: int
  k: int


@tree.struct
class Plan:
  """Spans of a batch, prepared for kernels over blocks.

  Attributes:
    by_query: steps ordered by block of queries, then by block of keys.
    by_key: steps ordered by block of keys, then by block of queries.
    bounds: first key and number of keys of every query, padded to whole blocks.
  """

  by_query: Int[Array, 'b steps']
  by_key: Int[Array, 'b steps']
  bounds: Int[Array, 'b 2 q']


def blocks(queries: int, keys: int) -> Blocks:
  """Block sizes for these lengths: 512, or the whole length if it is shorter."""
  return Blocks(*(min(512, _round_up(length, 128)) for length in (queries, keys)))


def plan(span: span_lib.Span, keys: int, sizes: Blocks | None = None) -> Plan:
  """Computes the schedules of a batch: for any spans, and minimal for monotone ones.

  If the queries of a block see distant ranges of keys, the blocks between are steps as
  well; likewise for keys seen by distant queries.

  Args:
    span: start and end of each query's keys, [b, q].
    keys: number of keys.
    sizes: block sizes; by default those of `blocks`.
  """
  queries = span.start.shape[1]
  sizes = sizes or blocks(queries, keys)
  rows, columns = (
    -(-length // size) for length, size in zip((queries, keys), sizes, strict=True)
  )
  assert rows < 2**13, 'a step has no room for so many blocks of queries'
  assert columns < 2**14, 'a step has no room for so many blocks of keys'
  start, end = jnp.clip(span.start, 0, keys), jnp.clip(span.end, 0, keys)
  more = ((0, 0), (0, rows * sizes.q - queries))
  start, end = jnp.pad(start, more), jnp.pad(end, more)
  empty = end <= start
  bounds = jnp.stack([start, jnp.where(empty, 0, end - start)], axis=1)
  # Empty spans start behind all keys and end before them: they do not affect the first
  # minimum and maximum below, and a block with one never seems to see all its keys.
  start, end = jnp.where(empty, keys, start), jnp.where(empty, 0, end)
  start, end = (x.reshape(-1, rows, sizes.q) for x in (start, end))
  first = jnp.min(start, axis=-1) // sizes.k
  last = -(-jnp.max(end, axis=-1) // sizes.k)
  column = jnp.arange(columns)[None, :, None]
  seen = (first[:, None] <= column) & (column < last[:, None])  # [b, columns, rows]
  row = jnp.arange(rows)[None, None]
  first_row = jnp.min(jnp.where(seen, row, rows), axis=-1)
  last_row = jnp.max(jnp.where(seen, row + 1, 0), axis=-1)
  reach = (first, last, jnp.max(start, axis=-1), jnp.min(end, axis=-1))
  q, k, flags = _walk(first, last, columns)
  by_query = _pack(q, k, flags, reach=reach, sizes=sizes)
  k, q, flags = _walk(first_row, last_row, rows)
  by_key = _pack(q, k, flags, reach=reach, sizes=sizes)
  return Plan(by_query, by_key, bounds)


def pad(x: Array, size: int) -> Array:
  """Pads [b, h, n, d] with zeros to whole blocks of positions."""
  return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % size), (0, 0)))


def sees(index: Array, start: Array, count: Array) -> Array:
  """True where queries see keys.

  Args:
    index: indices of the keys.
    start: first key of each query, from `Plan.bounds`.
    count: number of keys of each query, from `Plan.bounds`.
  """
  # As unsigned integers, differences below 0 are huge: one comparison tests both ends.
  after, count = (x.astype(jnp.uint32) for x in (index - start, count))
  return after < count


def steps(schedule: Int[Array, 'b steps']) -> Int[Array, '']:
  """Number of steps of the longest row of a schedule."""
  number = jnp.arange(1, schedule.shape[1] + 1)[None]
  return jnp.max(jnp.where(schedule & LAST != 0, number, 1)).astype(jnp.int32)


def query_block(step: Int[Array, '*s']) -> Int[Array, '*s']:
  """Block of queries of a step."""
  return jax.lax.shift_right_logical(step, jnp.int32(_QUERY_SHIFT))


def key_block(step: Int[Array, '*s']) -> Int[Array, '*s']:
  """Block of keys of a step."""
  number = jax.lax.shift_right_logical(step, jnp.int32(_KEY_SHIFT))
  return number & (2 ** (_QUERY_SHIFT - _KEY_SHIFT) - 1)


def _walk(first, last, inner_blocks):
  """Lists for every outer block its inner blocks from `first` to `last`, at least one.

  Every output block is therefore written, also one that sees nothing. Steps beyond the
  end repeat the last one without flags: they fetch nothing and compute nothing.

  Returns:
    Outer block, inner block and flags of every step, [b, steps] each.
  """
  b, outer_blocks = first.shape
  none = last <= first
  first = jnp.where(none, 0, first)
  count = jnp.where(none, 1, last - first)
  after = jnp.cumsum(count, axis=-1)
  step = jnp.arange(outer_blocks * inner_blocks)[None]
  outer = jnp.sum(after[:, None] <= step[..., None], axis=-1)
  live = outer < outer_blocks
  outer = jnp.minimum(outer, outer_blocks - 1)
  done = step - _pick(after - count, outer)
  count = _pick(count, outer)
  inner = _pick(first, outer) + jnp.minimum(done, count - 1)
  flags = jnp.where(done == 0, FIRST, 0) | jnp.where(done == count - 1, LAST, 0)
  return outer, inner, jnp.where(live, flags | WORK, 0)


def _pack(q, k, flags, *, reach, sizes):
  """Encodes steps as integers, with the flags for work and masking."""
  first, last, inside_from, inside_to = (_pick(x, q) for x in reach)
  work = (first <= k) & (k < last)
  inside = (inside_from <= k * sizes.k) & ((k + 1) * sizes.k <= inside_to)
  flags = jnp.where(work, flags, flags & ~WORK) | jnp.where(inside, 0, MASK)
  return ((q << _QUERY_SHIFT) | (k << _KEY_SHIFT) | flags).astype(jnp.int32)


def _pick(x, index):
  """`x[row, index]` for every row, without a gather."""
  chosen = index[..., None] == jnp.arange(x.shape[1])[None, None]
  return jnp.sum(jnp.where(chosen, x[:, None], 0), axis=-1)


def _round_up(number, multiple):
  return -(-number // multiple) * multiple
