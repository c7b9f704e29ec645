"""Schedules: which block of queries meets which block of keys, and in which order.

A kernel over blocks walks through a list of steps, one step for every pair of blocks in
which any query can see any key, so that it neither computes nor fetches the others. The
list is written once per batch, on the device, from the spans; every layer reuses it.

A step is one int32: block of queries (13 bits), block of keys (14), flags (4). Lists
have room for all pairs of blocks, which are fewer than positions up to rows of 131,072
or more. They are made by comparisons and sums alone, since gathers and scatters are
slow on a TPU.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from transfusion_jax.core import tree
from transfusion_jax.ops import span as span_lib

FIRST, LAST, WORK, MASK = 1, 2, 4, 8
"""Flags of a step: the first and last of its output block; any query of the pair may
see any key; and not every query sees every key."""

LEAST = -1e30
"""Below every score and yet finite, so that nothing minus nothing is not NaN: where the
maxima of an online softmax begin."""

_KEY_SHIFT, _QUERY_SHIFT = 4, 18


class Blocks(NamedTuple):
  """How many queries and how many keys a step covers."""

  q: int
  k: int


@tree.struct
class Plan:
  """What a kernel over blocks has to know of the spans.

  Attributes:
    by_query: steps ordered by block of queries, then of keys; [b, steps].
    by_key: steps ordered by block of keys, then of queries; [b, steps].
    bounds: first key and number of keys of every query, padded to whole blocks.
  """

  by_query: Int[Array, 'b steps']
  by_key: Int[Array, 'b steps']
  bounds: Int[Array, 'b 2 q']


def blocks(queries: int, keys: int) -> Blocks:
  """Blocks for these lengths: 512, or less where the whole length is shorter."""
  return Blocks(*(min(512, _round_up(length, 128)) for length in (queries, keys)))


def plan(span: span_lib.Span, keys: int, sizes: Blocks | None = None) -> Plan:
  """Writes the schedules of a batch; exact for any spans, tight for monotone ones.

  Queries of a block may look at distant stretches of keys, and keys of a block may be
  looked at from distant queries: what lies between is then walked over as well.

  Args:
    span: start and end of each query's keys, [b, q].
    keys: number of keys.
    sizes: sizes of the blocks; by default those of `blocks`.
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
  # An empty span lies beyond all keys and ends before them: every minimum and maximum
  # below is then right without further ado.
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
  by_query = _pack(q, k, flags, reach, sizes)
  k, q, flags = _walk(first_row, last_row, rows)
  return Plan(by_query, _pack(q, k, flags, reach, sizes), bounds)


def pad(x: Array, size: int) -> Array:
  """An array [b, h, n, d] with zeros behind, up to whole blocks of positions."""
  return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % size), (0, 0)))


def sees(index: Array, start: Array, count: Array) -> Array:
  """Whether queries see keys, from the numbers of the keys and the queries' `bounds`.

  Read as unsigned, what stands before the start is huge: one comparison for both.
  """
  after, count = (x.astype(jnp.uint32) for x in (index - start, count))
  return after < count


def steps(schedule: Int[Array, 'b steps']) -> Int[Array, '']:
  """How many steps the longest row of a schedule takes."""
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
  """For every outer block its inner ones from `first` to `last`; at least one each.

  Steps beyond the end repeat the last one without flags: they fetch and do nothing.
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


def _pack(q, k, flags, reach, sizes):
  """One number for a step, once it is known whether there is work and masking."""
  first, last, inside_from, inside_to = (_pick(x, q) for x in reach)
  work = (first <= k) & (k < last)
  inside = (inside_from <= k * sizes.k) & ((k + 1) * sizes.k <= inside_to)
  flags = jnp.where(work, flags, flags & ~WORK) | jnp.where(inside, 0, MASK)
  return ((q << _QUERY_SHIFT) | (k << _KEY_SHIFT) | flags).astype(jnp.int32)


def _pick(x, index):
  """`x[index]` in every row, without a gather."""
  chosen = index[..., None] == jnp.arange(x.shape[1])[None, None]
  return jnp.sum(jnp.where(chosen, x[:, None], 0), axis=-1)


def _round_up(number, multiple):
  return -(-number // multiple) * multiple
