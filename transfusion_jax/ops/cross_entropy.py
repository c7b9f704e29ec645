"""Cross-entropy of next-token prediction without the logits of all tokens in memory.

With hidden states h, the head's matrix W and the gradient g of the loss by each
position's cross-entropy, a block W_c of W's columns, which are tokens, at a time:

    z = sum_c exp(h W_c - m),    nats = log z + m - h W_target              (1)
    s_c = g (exp(h W_c - m) / z - [c = target])                             (2)
    dL/dh = sum_c s_c W_c^T,     dL/dW_c = h^T s_c                          (3)

The forward pass (1) keeps the largest logit m and z; the backward pass makes the logits
again. Blocks of columns, and not of positions, because the gradient of a column is then
complete in one product: no sum as large as W is carried from block to block.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transfusion_jax.core import sharding

WHOLE_BYTES = 2**27
"""Up to which all float32 logits of a device are one block."""

COLUMNS = 1024
"""Of a block otherwise: narrower is slower, and wider not faster for many positions."""

LANES = 128
UNUSED = -1e9


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def cross_entropy(
  hidden: Float[Array, 'b t e'],
  matrix: Float[Array, 'e v'],
  targets: Int[Array, 'b t'],
  used: int,
  columns: int | None = None,
) -> Float[Array, 'b t']:
  """Negative log-likelihood of each target, in nats.

  Products are of the arguments' type and add up in float32, in which the softmax is
  computed. Between devices nothing goes until the last block is done.

  Args:
    hidden: what the head reads.
    matrix: of the head, in the type of `hidden`.
    targets: the next token of every position.
    used: columns of `matrix` that stand for tokens; the others count for nothing.
    columns: most of them in a block; by default all if they fit into
      `WHOLE_BYTES`, or else `COLUMNS`.
  """
  return _forward(hidden, matrix, targets, used, columns)[0]


def _forward(hidden, matrix, targets, used, columns):
  def own(rows, matrix, over):
    blocks = _blocks(rows[0], matrix, used, columns, over)
    return _normalise(*rows, matrix, blocks), ()

  (nats, m, z), _ = sharding.own_columns(own, (hidden, targets), matrix)
  return nats, (hidden, matrix, targets, m, z)


def _backward(used, columns, kept, gradient):
  hidden, matrix, targets, m, z = kept

  def own(rows, matrix, over):
    blocks = _blocks(rows[0], matrix, used, columns, over)
    return _differentiate(*rows, matrix, blocks)

  rows = (hidden, targets, m, gradient / z, gradient)
  return *sharding.own_columns(own, rows, matrix), None


cross_entropy.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class _Block:
  """Some columns of a matrix.

  Attributes:
    start: the first of them.
    weights: the columns themselves.
    own: which of them are in no block that follows.
    token: that each stands for; -1: none, or one of a block that follows.
  """

  start: Any
  weights: Any
  own: Any
  token: Any

  def logits(self, hidden):
    product = _product('bte,ev->btv', hidden, self.weights)
    return jnp.where(self.token < 0, UNUSED, product)


@dataclasses.dataclass(frozen=True)
class _Blocks:
  """All columns that a device has, in blocks of one width, of which two overlap.

  Attributes:
    total: columns.
    width: of a block.
    count: of blocks.
    first: the token of the first column.
    used: tokens that there are.
    over: axes of the mesh that divide the columns of all devices.
  """

  total: int
  width: int
  count: int
  first: Any
  used: int
  over: tuple[str, ...]

  def take(self, matrix, index) -> _Block:
    end = self.total - (self.count - 1 - index) * self.width
    start = jnp.maximum(end - self.width, 0)
    here = start + jnp.arange(self.width)
    token = jnp.where(here < end, self.first + here, self.used)
    return _Block(
      start=start,
      weights=jax.lax.dynamic_slice_in_dim(matrix, start, self.width, axis=1),
      own=(here < end)[None],
      token=jnp.where(token < self.used, token, -1)[None, None],
    )

  def loop(self, body, begin):
    """What `body(index, carry)` makes of `begin` after all blocks."""
    if self.count == 1:
      return body(0, begin)
    return jax.lax.fori_loop(0, self.count, body, begin)


def _blocks(hidden, matrix, used, columns, over) -> _Blocks:
  total = matrix.shape[1]
  if columns is None:
    bytes_ = 4 * hidden.shape[0] * hidden.shape[1] * total
    columns = total if bytes_ <= WHOLE_BYTES else COLUMNS
  each = -(-total // -(-total // columns))
  width = min(-(-each // LANES) * LANES, total)
  first = jax.lax.axis_index(over) * total
  return _Blocks(total, width, -(-total // width), first, used, over)


def _normalise(hidden, targets, matrix, blocks):
  """Equation (1): nats, m and z."""

  def body(index, carry):
    m, z, chosen = carry
    block = blocks.take(matrix, index)
    logits = block.logits(hidden)
    largest = jnp.maximum(m, jnp.max(logits, axis=-1))
    z = z * jnp.exp(m - largest) + jnp.sum(jnp.exp(logits - largest[..., None]), -1)
    hit = targets[..., None] == block.token
    return largest, z, chosen + jnp.sum(jnp.where(hit, logits, 0.0), axis=-1)

  zero = jnp.zeros(targets.shape)
  own, z, chosen = blocks.loop(body, (zero + UNUSED, zero, zero))
  m = jax.lax.pmax(own, blocks.over)
  z = jax.lax.psum(z * jnp.exp(own - m), blocks.over)
  return jnp.log(z) + m - jax.lax.psum(chosen, blocks.over), m, z


def _differentiate(hidden, targets, m, scale, gradient, matrix, blocks):
  """Equations (2) and (3); the gradient of a block takes its place in the matrix."""

  def body(index, carry):
    before, matrix = carry
    block = blocks.take(matrix, index)
    slope = scale[..., None] * jnp.exp(block.logits(hidden) - m[..., None])
    hit = targets[..., None] == block.token
    slope = (slope - jnp.where(hit, gradient[..., None], 0.0)).astype(hidden.dtype)
    before = before + _product('btv,ev->bte', slope, block.weights)
    found = _product('bte,btv->ev', hidden, slope).astype(matrix.dtype)
    found = jnp.where(block.own, found, block.weights)
    if blocks.count > 1:
      # Written after all that is read: else the matrix may be copied in every round.
      before, found = jax.lax.optimization_barrier((before, found))
    return before, jax.lax.dynamic_update_slice_in_dim(
      matrix, found, block.start, axis=1
    )

  before, matrix = blocks.loop(body, (jnp.zeros(hidden.shape), matrix))
  return jax.lax.psum(before.astype(hidden.dtype), blocks.over), matrix


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
