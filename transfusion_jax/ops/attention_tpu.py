"""Span attention on a TPU: a Pallas kernel that walks over blocks of queries and keys.

Only pairs of blocks in which something is visible are fetched and computed
(`ops/schedule.py`); keys and values stream from memory, whatever their length. Softmax
is the online one (Milakov and Gimelshein, 2018; FlashAttention, Dao et al., 2022):
against running maxima `m` and sums `l`, for a block of scores `s`,

    m' = max(m, max s)   p = exp(s - m')   l' = l exp(m - m') + sum p                (1)
    o' = o exp(m - m') + p v

Scores stand transposed, keys by queries, forward and backward: what belongs to a query
(maximum, sum, span) is then a vector along the lanes, and reductions over keys run down
the sublanes, which is cheap. The backward pass computes probabilities again from the
saved logarithm of the sum; with `c_i = do_i . o_i`,

    dv = p' do   dp = do v'   ds = p (dp - c)   dk = ds' q   dq = ds k               (2)

It walks by keys and holds `dq` of a whole head in fast memory where that fits; longer
rows take a second walk, by queries, for `dq`.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from transfusion_jax.ops import schedule

_WHOLE_HEAD = 8 * 2**20
"""Bytes for a head's `dq` in fast memory: half of what the smallest chip (v4) has."""


def attend(
  q: Float[Array, 'b h q d'],
  k: Float[Array, 'b g k d'],
  v: Float[Array, 'b g k d'],
  plan: schedule.Plan,
  *,
  sizes: schedule.Blocks | None = None,
  visible: float = 0.5,
  interpret: bool = False,
) -> Float[Array, 'b h q d']:
  """Attention over the spans of a plan; see `attention.attend`.

  Args:
    q: queries.
    k: keys.
    v: values.
    plan: schedules, made for these lengths and sizes.
    sizes: sizes of the blocks; by default those of `schedule.blocks`.
    visible: share of all pairs that is, by which the compiler is told the cost; half
      of them are in causal text.
    interpret: run without a TPU, slowly, to test.

  Raises:
    ValueError: the program is lowered for something else than a TPU.
  """
  queries, keys = q.shape[2], k.shape[2]
  sizes = sizes or schedule.blocks(queries, keys)
  q, k, v = (
    schedule.pad(x, size) for x, size in ((q, sizes.q), (k, sizes.k), (v, sizes.k))
  )
  how = _How(sizes, visible, interpret)
  return _attend(q, k, v, plan, how)[:, :, :queries]


class _How(NamedTuple):
  """What all kernels of a call are built with; see `attend`."""

  sizes: schedule.Blocks
  visible: float
  interpret: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q, k, v, plan, how):
  return _forward(q, k, v, plan, how)[0]


def _attend_forward(q, k, v, plan, how):
  o, log_sum = _forward(q, k, v, plan, how)
  # Under the name that a remat policy may save: then this kernel is not run again.
  o = jax.ad_checkpoint.checkpoint_name(o, 'attention')
  log_sum = jax.ad_checkpoint.checkpoint_name(log_sum, 'attention')
  return o, (q, k, v, plan, o, log_sum)


def _attend_backward(how, saved, do):
  q, k, v, plan, o, log_sum = saved
  both = o.astype(jnp.float32) * do.astype(jnp.float32)
  inner = jnp.sum(both, axis=-1)[:, :, None]
  inputs = (plan.bounds, q, k, v, do, log_sum, inner)
  # The sum in float32 and two buffers on the way out, of at least 128 lanes.
  if q.shape[2] * max(q.shape[3], 128) * (4 + 2 * q.dtype.itemsize) <= _WHOLE_HEAD:
    dk, dv, dq = _backward_by_key(plan.by_key, inputs, how, True)
  else:
    dk, dv = _backward_by_key(plan.by_key, inputs, how, False)
    dq = _backward_by_query(plan.by_query, inputs, how)
  return dq, _sum_heads(dk, k), _sum_heads(dv, v), None


_attend.defvjp(_attend_forward, _attend_backward)


def _forward(q, k, v, plan, how):
  """Outputs, and of every query the logarithm (base 2) of its sum, [b, h, 1, q]."""
  (b, h, n, d), rows = q.shape, how.sizes.q
  return _call(
    functools.partial(_forward_kernel, scale=_scale(d)),
    plan.by_query,
    {'bounds': plan.bounds, 'q': q, 'k': k, 'v': v},
    {'o': (q.shape, v.dtype), 'log_sum': ((b, h, 1, n), jnp.float32)},
    {'out': (d, rows), 'total': (1, rows), 'top': (1, rows)},
    how,
    products=2,
  )


def _backward_by_key(steps, inputs, how, with_dq):
  """`dk` and `dv`, one for each head of the queries, and `dq` where a head fits."""
  _, q, k, *_ = inputs
  n, d = q.shape[2:]
  repeated = q.shape[1] // k.shape[1] > 1
  shape = (*q.shape[:2], *k.shape[2:])
  made = dict.fromkeys(('dk', 'dv'), (shape, jnp.float32 if repeated else k.dtype))
  sizes = how.sizes
  sums = {'dk_sum': (sizes.k, d), 'dv_sum': (sizes.k, d)}
  if with_dq:
    made['head'] = (q.shape, q.dtype)
    sums['dq_sum'] = (n // sizes.q, sizes.q, d)
  return _call(
    functools.partial(_key_kernel, scale=_scale(d)),
    steps,
    dict(zip(_BACKWARD, inputs, strict=True)),
    made,
    sums,
    how,
    products=5 if with_dq else 4,
  )


def _backward_by_query(steps, inputs, how):
  """`dq` alone, by a walk that forms one block of it after the other."""
  _, q, *_ = inputs
  d = q.shape[3]
  (dq,) = _call(
    functools.partial(_query_kernel, scale=_scale(d)),
    steps,
    dict(zip(_BACKWARD, inputs, strict=True)),
    {'dq': (q.shape, q.dtype)},
    {'dq_sum': (how.sizes.q, d)},
    how,
    products=3,
  )
  return dq


def _forward_kernel(
  step, sizes, bounds, q, k, v, o, log_sum, out, total, top, *, scale
):
  @pl.when(step & schedule.FIRST != 0)
  def _():
    top[...] = jnp.full_like(top, schedule.LEAST)
    total[...] = jnp.zeros_like(total)
    out[...] = jnp.zeros_like(out)

  def update(masked):
    scores = _scores(q, k, bounds, step, sizes, masked)
    highest = jnp.maximum(top[...], jnp.max(scores, axis=0, keepdims=True))
    shrink = jnp.exp2((top[...] - highest) * scale)
    weights = jnp.exp2((scores - highest) * scale)
    top[...] = highest
    total[...] = total[...] * shrink + jnp.sum(weights, axis=0, keepdims=True)
    out[...] = out[...] * shrink + _dot(v[...], weights.astype(v.dtype), 0, 0)

  _work(step, update)

  @pl.when(step & schedule.LAST != 0)
  def _():
    divisor = jnp.where(total[...] > 0, total[...], 1.0)
    o[...] = (out[...] / divisor).T.astype(o.dtype)
    log_sum[...] = top[...] * scale + jnp.log2(divisor)


def _key_kernel(step, sizes, bounds, q, k, v, do, log_sum, inner, dk, dv, *rest, scale):
  head, dk_sum, dv_sum, dq_sum = rest if len(rest) == 4 else (None, *rest, None)

  if head is not None:

    @pl.when(pl.program_id(2) == 0)
    def _():
      dq_sum[...] = jnp.zeros_like(dq_sum)

  @pl.when(step & schedule.FIRST != 0)
  def _():
    dk_sum[...] = jnp.zeros_like(dk_sum)
    dv_sum[...] = jnp.zeros_like(dv_sum)

  def update(masked):
    scores = _scores(q, k, bounds, step, sizes, masked)
    weights, slopes = _slopes(scores, v, do, log_sum, inner, scale)
    dv_sum[...] += _dot(weights.astype(do.dtype), do[...], 1, 0)
    slopes = slopes.astype(q.dtype)
    dk_sum[...] += _dot(slopes, q[...], 1, 0)
    if head is not None:
      dq_sum[schedule.query_block(step)] += _dot(slopes, k[...], 0, 0)

  _work(step, update)

  @pl.when(step & schedule.LAST != 0)
  def _():
    dk[...] = (dk_sum[...] * _natural(scale)).astype(dk.dtype)
    dv[...] = dv_sum[...].astype(dv.dtype)

  if head is not None:

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def _():
      @pl.loop(0, dq_sum.shape[0])
      def _(i):
        rows = pl.ds(pl.multiple_of(i * sizes.q, sizes.q), sizes.q)
        head[rows] = (dq_sum[i] * _natural(scale)).astype(head.dtype)


def _query_kernel(
  step, sizes, bounds, q, k, v, do, log_sum, inner, dq, dq_sum, *, scale
):
  @pl.when(step & schedule.FIRST != 0)
  def _():
    dq_sum[...] = jnp.zeros_like(dq_sum)

  def update(masked):
    scores = _scores(q, k, bounds, step, sizes, masked)
    _, slopes = _slopes(scores, v, do, log_sum, inner, scale)
    dq_sum[...] += _dot(slopes.astype(k.dtype), k[...], 0, 0)

  _work(step, update)

  @pl.when(step & schedule.LAST != 0)
  def _():
    dq[...] = (dq_sum[...] * _natural(scale)).astype(dq.dtype)


_BACKWARD = ('bounds', 'q', 'k', 'v', 'do', 'log_sum', 'inner')
"""What both backward kernels read."""

_OF_KEYS = ('k', 'v', 'dk', 'dv')
"""Arrays that are cut into blocks of keys; the others, of queries."""


def _work(step, update):
  """Runs an update with or without masking, or not at all."""
  kind = step & (schedule.WORK | schedule.MASK)
  pl.when(kind == schedule.WORK)(lambda: update(masked=False))
  pl.when(kind == schedule.WORK | schedule.MASK)(lambda: update(masked=True))


def _scores(q, k, bounds, step, sizes, masked):
  """Products of all keys and queries of a step, [k, q]; no span: minus infinity."""
  scores = _dot(k[...], q[...], 1, 1)
  if not masked:
    return scores
  index = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
  start, count = bounds[0:1], bounds[1:2]
  start = start - schedule.key_block(step) * sizes.k
  return jnp.where(schedule.sees(index, start, count), scores, -jnp.inf)


def _slopes(scores, v, do, log_sum, inner, scale):
  """Probabilities, and (2)'s `ds` but for the scale of the scores; both [k, q]."""
  weights = jnp.exp2(scores * scale - log_sum[...])
  return weights, weights * (_dot(v[...], do[...], 1, 1) - inner[...])


def _dot(x, y, x_axis, y_axis):
  """Contracts one axis of each; float32 numbers are multiplied as such."""
  precise = x.dtype == jnp.float32
  return jax.lax.dot_general(
    x,
    y,
    (((x_axis,), (y_axis,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST if precise else jax.lax.Precision.DEFAULT,
    preferred_element_type=jnp.float32,
  )


def _scale(head_dim):
  """1 / sqrt(d), for exponentials with base 2."""
  return head_dim**-0.5 * math.log2(math.e)


def _natural(scale):
  return scale * math.log(2)


def _call(kernel, steps, inputs, made, scratch, how, products):
  """Calls a kernel for every row, head and step.

  Args:
    kernel: a function of the step, `sizes`, all inputs, outputs and scratch.
    steps: the schedule.
    inputs: arrays by name; the name says how they are cut into blocks.
    made: shape and type of the outputs by name.
    scratch: shapes of what is kept between steps, float32.
    how: sizes of the blocks, and what else `attend` was asked for.
    products: matrix products of a step, for the estimate of the cost.
  """
  sizes, visible, interpret = how
  b, h, n, d = inputs['q'].shape
  group, keys = h // inputs['k'].shape[1], inputs['k'].shape[2]
  length, pairs = steps.shape[1], int(visible * b * h * n * keys)

  def current(row, number, schedule_ref):
    return schedule_ref[row * length + number]

  def spec(name):
    def index(row, head, number, schedule_ref):
      return _index(name, row, head, group, current(row, number, schedule_ref))

    return pl.BlockSpec(_shape(name, n, d, sizes), index)

  def body(schedule_ref, *refs):
    kernel(current(pl.program_id(0), pl.program_id(2), schedule_ref), sizes, *refs)

  shapes = [jax.ShapeDtypeStruct(*each) for each in made.values()]
  moved = sum(x.size * x.dtype.itemsize for x in (*inputs.values(), *shapes))
  return pl.pallas_call(
    body,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(b, h, schedule.steps(steps)),
      in_specs=[spec(name) for name in inputs],
      out_specs=[spec(name) for name in made],
      scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch.values()],
    ),
    out_shape=shapes,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'parallel', 'arbitrary'),
    ),
    # Heads narrower than a matrix unit keep it busy for as long as those that fill it.
    cost_estimate=pl.CostEstimate(
      flops=2 * products * pairs * max(d, 128),
      transcendentals=pairs,
      bytes_accessed=moved,
    ),
    interpret=interpret,
    name=f'span{kernel.func.__name__}',
  )(steps.reshape(-1), *inputs.values())


def _shape(name, queries, head_dim, sizes):
  """Shape of the block of an array; None is an axis of which a step sees one entry."""
  if name == 'bounds':
    return None, 2, sizes.q
  if name in ('log_sum', 'inner'):
    return None, None, 1, sizes.q
  if name == 'head':
    return None, None, queries, head_dim
  return None, None, sizes.k if name in _OF_KEYS else sizes.q, head_dim


def _index(name, row, head, group, step):
  """Which block of an array a step works on."""
  i, j = schedule.query_block(step), schedule.key_block(step)
  if name == 'bounds':
    return row, 0, i
  if name in ('log_sum', 'inner'):
    return row, head, 0, i
  if name == 'head':
    return row, head, 0, 0
  if name in ('k', 'v'):
    return row, head // group, j, 0
  return row, head, j if name in _OF_KEYS else i, 0


def _sum_heads(x, like):
  """Adds up what the query heads of each key head contribute."""
  b, g, n, d = like.shape
  return jnp.sum(x.reshape(b, g, -1, n, d), axis=2).astype(like.dtype)
