"""Span attention for any device, in XLA, over the pairs of blocks that spans show.

Blocks of queries come one after the other; each iterates over its steps in the schedule
(`ops/schedule.py`): the blocks of keys of which it may see any. For packed documents
the number of steps grows with the length of a row and not with its square. The softmax
is computed online (Milakov and Gimelshein, 2018; FlashAttention, Dao et al., 2022):
with running maxima `m` and sums `l`, a block of scores `s` gives

    m' = max(m, max s)   p = exp(s - m')   l' = l exp(m - m') + sum p                (1)
    o' = o exp(m - m') + p v

The backward pass takes the same steps and recomputes the probabilities from the saved
logarithm of the sum; with `c_i = do_i . o_i`,

    dv = p' do   dp = do v'   ds = p (dp - c)   dk = ds' q   dq = ds k               (2)

In the backward pass scores are transposed, keys by queries, and keys are transposed
once before the loop: no product then contracts the first axis of its left factor, which
takes a CPU up to three times as long. Query heads that share a key head are in one
block, like additional queries. The number of steps is known only at run time, and JAX
cannot differentiate such a loop in reverse; hence the custom derivative. Memory grows
with the length.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
from jaxtyping import Array, Float

from transfusion_jax.ops import schedule


def blocks(queries: int, keys: int) -> schedule.Blocks:
  """Block sizes: one block for up to 384 queries, else equal blocks of at most 256.

  Larger blocks compute more invisible pairs when documents end within blocks, and are
  no faster when they do not; smaller ones do not keep a CPU busy.
  """
  most = schedule.Blocks(384, 512) if queries <= 384 else schedule.Blocks(256, 256)
  return schedule.Blocks(_even(queries, most.q), _even(keys, most.k))


def attend(
  q: Float[Array, 'b h q d'],
  k: Float[Array, 'b g k d'],
  v: Float[Array, 'b g k d'],
  plan: schedule.Plan,
  *,
  sizes: schedule.Blocks | None = None,
) -> Float[Array, 'b h q d']:
  """Attention over the spans of a plan; see `attention.attend`.

  Args:
    q: queries.
    k: keys.
    v: values.
    plan: schedules for these lengths and block sizes.
    sizes: block sizes; by default those of `blocks`.
  """
  b, h, queries, d = q.shape
  groups = k.shape[1]
  group = h // groups
  sizes = sizes or blocks(queries, k.shape[2])
  q, k, v = _cut(q, sizes.q), _cut(k, sizes.k), _cut(v, sizes.k)
  # Every block holds all query heads of a key head: keys and values are read once for
  # all of them, and their gradients need no sum over heads.
  q = q.reshape(b, groups, group, -1, sizes.q, d)
  q = jnp.swapaxes(q, 2, 3).reshape(b, groups, -1, group * sizes.q, d)
  bounds = plan.bounds.reshape(b, 2, -1, sizes.q)
  o = _attend(q, k, v, steps=plan.by_query, bounds=jnp.tile(bounds, group))
  o = jnp.swapaxes(o.reshape(b, groups, -1, group, sizes.q, d), 2, 3)
  return o.reshape(b, h, -1, d)[:, :, :queries]


@jax.custom_vjp
def _attend(q, k, v, steps, bounds):
  """Attention over blocks: q [b, g, i, r, d], k and v [b, g, j, k, d].

  `r` counts the queries of block `i`, head by head; bounds are [b, 2, i, r].
  """
  return _forward(q, k, v, steps=steps, bounds=bounds)[0]


def _attend_forward(q, k, v, steps, bounds):
  o, log_sum = _forward(q, k, v, steps=steps, bounds=bounds)
  # Named so that a remat policy can save both: this loop is then not run again.
  o = jax.ad_checkpoint.checkpoint_name(o, 'attention')
  log_sum = jax.ad_checkpoint.checkpoint_name(log_sum, 'attention')
  return o, (q, k, v, steps, bounds, o, log_sum)


def _attend_backward(saved, do):
  return *_backward(*saved, do), None, None


_attend.defvjp(_attend_forward, _attend_backward)


def _forward(q, k, v, *, steps, bounds):
  """Outputs, and the logarithm of every query's sum, [b, g, i, r]."""
  scale = q.shape[-1] ** -0.5

  def block(at, walk, made):
    queries, seen = _take(q, at), _take(bounds, at)

    def step(key_block, sums):
      out, total, top = sums
      keys, values = _take(k, key_block), _take(v, key_block)
      index = key_block[1] * k.shape[3] + jnp.arange(k.shape[3], dtype=jnp.int32)
      scores = _dot('grd,gkd->grk', queries, keys)
      visible = schedule.sees(index[None], *seen[..., None])
      scores = jnp.where(visible[None], scores, -jnp.inf)
      highest = jnp.maximum(top, jnp.max(scores, axis=-1))
      shrink = jnp.exp((top - highest) * scale)
      weights = jnp.exp((scores - highest[..., None]) * scale)
      total = total * shrink + jnp.sum(weights, axis=-1)
      more = _dot('grk,gkd->grd', weights.astype(v.dtype), values)
      return out * shrink[..., None] + more, total, highest

    # The maximum starts finite (`schedule.LEAST`): a query whose scores are all -inf
    # gets weights of 0, where -inf - -inf would make them NaN.
    nothing = jnp.zeros(queries.shape[:2], jnp.float32)
    sums = jnp.zeros(queries.shape, jnp.float32), nothing, nothing + schedule.LEAST
    number, (out, total, top) = walk(step, sums)
    divisor = jnp.where(total > 0, total, 1.0)
    o, log_sum = made
    o = _put(o, at, (out / divisor[..., None]).astype(o.dtype))
    return number, (o, _put(log_sum, at, top * scale + jnp.log(divisor)))

  made = jnp.zeros(q.shape, v.dtype), jnp.zeros(q.shape[:-1], jnp.float32)
  return _each_block(block, made, steps, count=q.shape[2])


def _backward(q, k, v, steps, bounds, o, log_sum, do):
  """Gradients `dq`, `dk` and `dv` of (2)."""
  scale = q.shape[-1] ** -0.5
  turned = jnp.swapaxes(k, -1, -2)

  def block(at, walk, made):
    queries, slopes_out, seen = (_take(x, at) for x in (q, do, bounds))
    both = slopes_out.astype(jnp.float32) * _take(o, at).astype(jnp.float32)
    inner, total = jnp.sum(both, axis=-1)[:, None], _take(log_sum, at)[:, None]

    def step(key_block, sums):
      dq, dk, dv = sums
      keys, values = _take(k, key_block), _take(v, key_block)
      index = key_block[1] * k.shape[3] + jnp.arange(k.shape[3], dtype=jnp.int32)
      visible = schedule.sees(index[:, None], *seen[:, None])
      scores = _dot('gkd,grd->gkr', keys, queries)
      # Masked before the exponential: `total` of a query that sees nothing is so low
      # that the exponential would be infinite.
      scores = jnp.where(visible[None], scores * scale - total, -jnp.inf)
      weights = jnp.exp(scores)
      slopes = weights * (_dot('gkd,grd->gkr', values, slopes_out) - inner)
      slopes = slopes.astype(q.dtype)
      dv = _add(
        dv, key_block, _dot('gkr,grd->gkd', weights.astype(v.dtype), slopes_out)
      )
      dk = _add(dk, key_block, _dot('gkr,grd->gkd', slopes, queries))
      return dq + _dot('gdk,gkr->gdr', _take(turned, key_block), slopes), dk, dv

    dq, dk, dv = made
    groups, rows, d = queries.shape
    sums = jnp.zeros((groups, d, rows), jnp.float32), dk, dv
    number, (sum_dq, dk, dv) = walk(step, sums)
    sum_dq = jnp.swapaxes(sum_dq, -1, -2) * scale
    return number, (_put(dq, at, sum_dq.astype(dq.dtype)), dk, dv)

  # Every step adds to a block of keys: float32 keeps the many small terms, and the loop
  # updates both arrays in place.
  sums = (jnp.zeros(x.shape, jnp.float32) for x in (k, v))
  made = jnp.zeros(q.shape, q.dtype), *sums
  dq, dk, dv = _each_block(block, made, steps, count=q.shape[2])
  return dq, (dk * scale).astype(k.dtype), dv.astype(v.dtype)


def _each_block(
  block: Callable[..., Any], made: Any, steps: jax.Array, *, count: int
) -> Any:
  """Folds a function over all blocks of queries of all rows.

  Args:
    block: `number, made = block(at, walk, made)` for the block of queries `at` = (row,
      index). It calls `number, sums = walk(step, sums)` once, which calls
      `sums = step(key_block, sums)` for every block of keys that it sees.
    made: initial value.
    steps: schedule ordered by block of queries, [b, steps].
    count: number of blocks of queries in a row.

  Returns:
    The value after the last block.
  """
  rows, length = steps.shape

  def visit(index, carry):
    number, made = carry
    row, i = index // count, index % count
    number = jnp.where(i == 0, 0, number)
    walk = functools.partial(_walk, steps[row], row, number)
    return block((row, i), walk, made)

  return jax.lax.fori_loop(0, rows * count, visit, (jnp.int32(0), made))[1]


def _walk(steps, row, number, step, sums):
  """Takes the steps of a row from `number` to the last one of its block of queries.

  A block that sees nothing has a single step without work, which is skipped.
  """

  def once(state):
    number, _, sums = state
    sums = step((row, schedule.key_block(steps[number])), sums)
    return number + 1, steps[number] & schedule.LAST == 0, sums

  some = steps[number] & schedule.WORK != 0
  state = number, some, sums
  after, _, sums = jax.lax.while_loop(lambda state: state[1], once, state)
  return jnp.where(some, after, number + 1), sums


def _even(length, most):
  """Size of equal blocks, a multiple of 128: as few as `most` allows for `length`."""
  count = -(-length // most)
  return -(-length // (128 * count)) * 128


def _dot(spec, x, y):
  return jnp.einsum(spec, x, y, preferred_element_type=jnp.float32)


def _cut(x, size):
  """Divides [b, h, n, d] into blocks: [b, h, i, size, d]."""
  x = schedule.pad(x, size)
  return x.reshape(*x.shape[:2], -1, size, x.shape[3])


def _place(x, at):
  """Start indices and shape of block `at` = (row, index) of an array."""
  row, i = at
  zero = jnp.zeros_like(row)
  behind = x.ndim - 3
  return (row, zero, i, *[zero] * behind), (1, x.shape[1], 1, *x.shape[3:])


def _take(x, at):
  begin, size = _place(x, at)
  return jax.lax.dynamic_slice(x, begin, size).reshape(x.shape[1], *x.shape[3:])


def _put(x, at, block):
  begin, size = _place(x, at)
  return jax.lax.dynamic_update_slice(x, block.reshape(size), begin)


def _add(x, at, block):
  return _put(x, at, _take(x, at) + block)
