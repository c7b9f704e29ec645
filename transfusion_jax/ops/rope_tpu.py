"""Rotary position embedding on a TPU: a Pallas kernel that reads and writes once.

XLA has no operation that rotates the lanes of a vector: it splits the halves of a head
and joins them again in memory, in float32. Here a block is rotated in registers,

    y = x cos + swap(x) sin                                                        (1)

(`ops/rope.py`), and the gradient is rotated by the opposite angle:

    dx = dy cos - swap(dy) sin                                                     (2)
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

_LANES = 128
_POSITIONS = 512
"""Largest number of positions of a block."""

_CHUNK = 32
"""Positions rotated at a time: their angles stay in registers for all heads."""

_BLOCK = 2**20
"""Bytes of a block of heads; four are in memory: input and output, two buffers each."""


def takes(x: Float[Array, 'b h t d']) -> bool:
  """True if positions fill whole blocks and the head dim whole or half lanes."""
  whole = x.shape[3] % _LANES == 0 or x.shape[3] == _LANES // 2
  return whole and x.shape[2] % _LANES == 0


def rotate(
  x: Float[Array, 'b h t d'],
  cos: Float[Array, 'b 1 t d'],
  sin: Float[Array, 'b 1 t d'],
  *,
  interpret: bool = False,
) -> Float[Array, 'b h t d']:
  """Rotation (1), in float32; see `rope.rotate`.

  Args:
    x: queries or keys that `takes` accepts.
    cos: cosines of both halves.
    sin: sines, those of the first half negated.
    interpret: if True, runs without a TPU, slowly, for tests.

  Raises:
    ValueError: the program is lowered for another platform than a TPU.
  """
  return _rotate(x, cos, sin, interpret=interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _rotate(x, cos, sin, interpret):
  return _call(x, cos, sin, sign=1.0, interpret=interpret)


def _rotate_forward(x, cos, sin, interpret):
  return _rotate(x, cos, sin, interpret=interpret), (cos, sin)


def _rotate_backward(interpret, saved, dy):
  # Positions are integers: no gradient goes to the angles.
  return _call(dy, *saved, sign=-1.0, interpret=interpret), None, None


_rotate.defvjp(_rotate_forward, _rotate_backward)


def _call(x, cos, sin, *, sign, interpret):
  """Calls the kernel for every row, block of positions and block of heads."""
  b, h, t, d = x.shape
  positions = next(n for n in (_POSITIONS, 256, _LANES) if t % n == 0)
  most = _BLOCK // (positions * max(d, _LANES) * x.dtype.itemsize)
  heads = max(n for n in range(1, h + 1) if h % n == 0 and n <= max(1, most))
  block = pl.BlockSpec((None, heads, positions, d), lambda i, j, k: (i, k, j, 0))
  angles = pl.BlockSpec((None, None, positions, d), lambda i, j, k: (i, 0, j, 0))
  moved = 2 * x.size * x.dtype.itemsize + 2 * cos.size * cos.dtype.itemsize
  return pl.pallas_call(
    functools.partial(_kernel, sign=sign),
    # Heads last: their blocks share the angles, which are then fetched once.
    grid=(b, t // positions, h // heads),
    in_specs=[block, angles, angles],
    out_specs=block,
    out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'parallel', 'arbitrary')
    ),
    cost_estimate=pl.CostEstimate(
      flops=3 * x.size, transcendentals=0, bytes_accessed=moved
    ),
    interpret=interpret,
    name='rotate',
  )(x, cos, sin)


def _kernel(x, cos, sin, y, *, sign):
  half = x.shape[2] // 2

  @pl.loop(0, x.shape[1] // _CHUNK)
  def _(i):
    here = pl.ds(pl.multiple_of(i * _CHUNK, _CHUNK), _CHUNK)
    c, s = cos[here], sin[here] * sign
    for head in range(x.shape[0]):
      part = x[head, here].astype(jnp.float32)
      y[head, here] = (part * c + _swap(part, half) * s).astype(y.dtype)


def _swap(x, half):
  if 2 * half % _LANES == 0:
    return pltpu.roll(x, half, 1)
  return jnp.concatenate([x[:, half:], x[:, :half]], axis=1)
