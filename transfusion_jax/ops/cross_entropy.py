"""Cross-entropy of next-token prediction without all logits in memory at once.

With hidden states h, the matrix W of the head (one column for each token), the gradient
g of the loss with respect to each position's cross-entropy, and one block of columns
W_c at a time:

    z = sum_c exp(h W_c - m),    nats = log z + m - h W_target              (1)
    s_c = g (exp(h W_c - m) / z - [c = target])                             (2)
    dL/dh = sum_c s_c W_c^T,     dL/dW_c = h^T s_c                          (3)

The forward pass (1) keeps the largest logit m and the sum z; the backward pass
recomputes the logits. The blocks are of columns and not of positions: one product then
gives the whole gradient of a column, and no sum of the size of W is carried from block
to block.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transfusion_jax.core import sharding

WHOLE_BYTES = 2**27
"""Largest size of the float32 logits of a device that are computed as one block."""

COLUMNS = 1024
"""Columns of a block otherwise: fewer are slower, more are not faster."""

LANES = 128
UNUSED = -1e9
"""Logit of columns without a token; finite, as a device may have no others: no NaN."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def cross_entropy(
  hidden: Float[Array, 'b t e'],
  matrix: Float[Array, 'e v'],
  targets: Int[Array, 'b t'],
  used: int,
  columns: int | None = None,
) -> Float[Array, 'b t']:
  """Negative log-likelihood of each target, in nats.

  Products have factors of the arguments' type and float32 sums; the softmax is float32.
  Devices communicate only after the last block.

  Args:
    hidden: input of the head.
    matrix: matrix of the head, in the type of `hidden`.
    targets: next token of every position.
    used: number of columns of `matrix` that are tokens; the others are padding.
    columns: most columns in a block; by default all if their logits fit into
      `WHOLE_BYTES`, else `COLUMNS`.
  """
  return _forward(hidden, matrix, targets, used=used, columns=columns)[0]


def _forward(hidden, matrix, targets, used, columns):
  def own(rows, matrix, over):
    blocks = _blocks(rows[0], matrix, used=used, columns=columns, over=over)
    return _normalise(*rows, matrix, blocks=blocks), ()

  (nats, m, z), _ = sharding.own_columns(own, (hidden, targets), matrix)
  return nats, (hidden, matrix, targets, m, z)


def _backward(used, columns, kept, gradient):
  hidden, matrix, targets, m, z = kept

  def own(rows, matrix, over):
    blocks = _blocks(rows[0], matrix, used=used, columns=columns, over=over)
    return _differentiate(*rows, matrix, blocks=blocks)

  rows = (hidden, targets, m, gradient / z, gradient)
  return *sharding.own_columns(own, rows, matrix), None


cross_entropy.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class _Block:
  """Block of columns of a matrix.

  Attributes:
    start: index of its first column.
    weights: its columns, [e, width].
    own: True for columns that no later block contains, [1, width].
    token: token of each column, [1, 1, width]; -1 for padding and for columns that a
      later block contains.
  """

  start: Any
  weights: Any
  own: Any
  token: Any

  def logits(self, hidden):
    product = _product('bte,ev->btv', hidden, self.weights)
    return jnp.where(self.token < 0, UNUSED, product)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Blocks:
  """Division of a device's columns into blocks of one width; the first two may overlap.

  Attributes:
    total: number of columns of the device.
    width: number of columns of a block.
    count: number of blocks.
    first: token of the device's first column.
    used: number of tokens.
    over: mesh axes that divide the columns among devices.
  """

  total: int
  width: int
  count: int
  first: Any
  used: int
  over: tuple[str, ...]

  def take(self, matrix, index) -> _Block:
    # Counted from the end: the first block is the one that starts too early.
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
    """Value after `carry = body(index, carry)` for all blocks, from `begin`."""
    if self.count == 1:
      return body(0, begin)
    return jax.lax.fori_loop(0, self.count, body, begin)


def _blocks(hidden, matrix, *, used, columns, over) -> _Blocks:
  total = matrix.shape[1]
  if columns is None:
    bytes_ = 4 * hidden.shape[0] * hidden.shape[1] * total
    columns = total if bytes_ <= WHOLE_BYTES else COLUMNS
  each = -(-total // -(-total // columns))
  width = min(-(-each // LANES) * LANES, total)
  first = jax.lax.axis_index(over) * total
  return _Blocks(
    total=total,
    width=width,
    count=-(-total // width),
    first=first,
    used=used,
    over=over,
  )


def _normalise(hidden, targets, matrix, *, blocks):
  """Equation (1): returns nats, m and z, [b, t] each."""

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


def _differentiate(hidden, targets, m, scale, gradient, matrix, *, blocks):
  """Equations (2) and (3): returns the gradients of `hidden` and `matrix`."""
  # Gradients replace the `own` columns of a block, which no later block reads.

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
      # Write only after all reads: else the matrix may be copied in every iteration.
      before, found = jax.lax.optimization_barrier((before, found))
    return before, jax.lax.dynamic_update_slice_in_dim(
      matrix, found, block.start, axis=1
    )

  before, matrix = blocks.loop(body, (jnp.zeros(hidden.shape), matrix))
  return jax.lax.psum(before.astype(hidden.dtype), blocks.over), matrix


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
