"""Span attention on a TPU: Pallas kernels over pairs of blocks of queries and keys.

Only pairs of blocks with a visible key are fetched and computed (`ops/schedule.py`);
keys and values stream from memory, so that rows may have any length. The softmax is
computed online (Milakov and Gimelshein, 2018; FlashAttention, Dao et al., 2022): with
running maxima `m` and sums `l`, a block of scores `s` gives

    m' = max(m, max s)   p = exp(s - m')   l' = l exp(m - m') + sum p                (1)
    o' = o exp(m - m') + p v

Scores are transposed, keys by queries, in both passes: values per query (maximum, sum,
span) are then vectors along the lanes, and reductions over keys run along the sublanes,
which is cheap. The backward pass recomputes the probabilities from the saved logarithm
of the sum; with `c_i = do_i . o_i`,

    dv = p' do   dp = do v'   ds = p (dp - c)   dk = ds' q   dq = ds k               (2)

It iterates by block of keys and accumulates `dq` of a whole head in fast memory if that
fits. For longer rows a second kernel, by block of queries, computes `dq`.
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
"""Bytes of fast memory for `dq` of a head: half of the smallest one (v4)."""


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
    visible: share of visible pairs, for the cost estimate only; 0.5 in causal text.
    interpret: if True, runs without a TPU, slowly, for tests.

  Raises:
    ValueError: the program is lowered for another platform than a TPU.
  """
  queries, keys = q.shape[2], k.shape[2]
  sizes = sizes or schedule.blocks(queries, keys)
  q, k, v = (
    schedule.pad(x, size) for x, size in ((q, sizes.q), (k, sizes.k), (v, sizes.k))
  )
  how = _How(sizes, visible, interpret)
  return _attend(q, k, v, plan=plan, how=how)[:, :, :queries]


class _How(NamedTuple):
  """Options of all kernels of a call; see `attend`."""

  sizes: schedule.Blocks
  visible: float
  interpret: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q, k, v, plan, how):
  return _forward(q, k, v, plan=plan, how=how)[0]


def _attend_forward(q, k, v, plan, how):
  o, log_sum = _forward(q, k, v, plan=plan, how=how)
  # Named so that a remat policy can save both: this kernel is then not run again.
  o = jax.ad_checkpoint.checkpoint_name(o, 'attention')
  log_sum = jax.ad_checkpoint.checkpoint_name(log_sum, 'attention')
  return o, (q, k, v, plan, o, log_sum)


def _attend_backward(how, saved, do):
  q, k, v, plan, o, log_sum = saved
  both = o.astype(jnp.float32) * do.astype(jnp.float32)
  inner = jnp.sum(both, axis=-1)[:, :, None]
  inputs = (plan.bounds, q, k, v, do, log_sum, inner)
  # A float32 sum and two output buffers, each padded to at least 128 lanes.
  if q.shape[2] * max(q.shape[3], 128) * (4 + 2 * q.dtype.itemsize) <= _WHOLE_HEAD:
    dk, dv, dq = _backward_by_key(plan.by_key, inputs, how, with_dq=True)
  else:
    dk, dv = _backward_by_key(plan.by_key, inputs, how, with_dq=False)
    dq = _backward_by_query(plan.by_query, inputs, how)
  return dq, _sum_heads(dk, k), _sum_heads(dv, v), None


_attend.defvjp(_attend_forward, _attend_backward)


def _forward(q, k, v, *, plan, how):
  """Outputs, and the base-2 logarithm of every query's sum, [b, h, 1, q]."""
  (b, h, n, d), rows = q.shape, how.sizes.q
  return _call(
    functools.partial(_forward_kernel, scale=_scale(d)),
    steps=plan.by_query,
    inputs={'bounds': plan.bounds, 'q': q, 'k': k, 'v': v},
    made={'o': (q.shape, v.dtype), 'log_sum': ((b, h, 1, n), jnp.float32)},
    scratch={'out': (d, rows), 'total': (1, rows), 'top': (1, rows)},
    how=how,
    products=2,
  )


def _backward_by_key(steps, inputs, how, *, with_dq):
  """`dk` and `dv` for each query head, [b, h, k, d], and `dq` if it fits."""
  _, q, k, *_ = inputs
  n, d = q.shape[2:]
  # Query heads run in parallel, so that each writes a `dk` and `dv` of its own; if
  # several share a key head, these stay float32 until `_sum_heads` has added them.
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
    steps=steps,
    inputs=dict(zip(_BACKWARD, inputs, strict=True)),
    made=made,
    scratch=sums,
    how=how,
    products=5 if with_dq else 4,
  )


def _backward_by_query(steps, inputs, how):
  """`dq` alone, one block of queries after the other."""
  _, q, *_ = inputs
  d = q.shape[3]
  (dq,) = _call(
    functools.partial(_query_kernel, scale=_scale(d)),
    steps=steps,
    inputs=dict(zip(_BACKWARD, inputs, strict=True)),
    made={'dq': (q.shape, q.dtype)},
    scratch={'dq_sum': (how.sizes.q, d)},
    how=how,
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
    scores = _scores(q, k, bounds, step=step, sizes=sizes, masked=masked)
    # `top` starts finite (`schedule.LEAST`), so that a query whose scores are all -inf
    # gets weights of 0, where -inf - -inf would make them NaN.
    highest = jnp.maximum(top[...], jnp.max(scores, axis=0, keepdims=True))
    shrink = jnp.exp2((top[...] - highest) * scale)
    weights = jnp.exp2((scores - highest) * scale)
    top[...] = highest
    total[...] = total[...] * shrink + jnp.sum(weights, axis=0, keepdims=True)
    out[...] = out[...] * shrink + _dot(v[...], weights.astype(v.dtype), over=(0, 0))

  _work(step, update)

  @pl.when(step & schedule.LAST != 0)
  def _():
    # Every block of queries has a last step, even one that sees nothing: it gets zeros.
    divisor = jnp.where(total[...] > 0, total[...], 1.0)
    o[...] = (out[...] / divisor).T.astype(o.dtype)
    log_sum[...] = top[...] * scale + jnp.log2(divisor)


def _key_kernel(step, sizes, bounds, q, k, v, do, log_sum, inner, dk, dv, *rest, scale):
  head, dk_sum, dv_sum, dq_sum = rest if len(rest) == 4 else (None, *rest, None)

  # Blocks of queries come back for every block of keys, so that `dq` is summed over all
  # steps of a head; `dk` and `dv` are complete at the last step of their block.
  if head is not None:

    @pl.when(pl.program_id(2) == 0)
    def _():
      dq_sum[...] = jnp.zeros_like(dq_sum)

  @pl.when(step & schedule.FIRST != 0)
  def _():
    dk_sum[...] = jnp.zeros_like(dk_sum)
    dv_sum[...] = jnp.zeros_like(dv_sum)

  def update(masked):
    scores = _scores(q, k, bounds, step=step, sizes=sizes, masked=masked)
    weights, slopes = _slopes(scores, v, do, log_sum=log_sum, inner=inner, scale=scale)
    dv_sum[...] += _dot(weights.astype(do.dtype), do[...], over=(1, 0))
    slopes = slopes.astype(q.dtype)
    dk_sum[...] += _dot(slopes, q[...], over=(1, 0))
    if head is not None:
      dq_sum[schedule.query_block(step)] += _dot(slopes, k[...], over=(0, 0))

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
    scores = _scores(q, k, bounds, step=step, sizes=sizes, masked=masked)
    _, slopes = _slopes(scores, v, do, log_sum=log_sum, inner=inner, scale=scale)
    dq_sum[...] += _dot(slopes.astype(k.dtype), k[...], over=(0, 0))

  _work(step, update)

  @pl.when(step & schedule.LAST != 0)
  def _():
    dq[...] = (dq_sum[...] * _natural(scale)).astype(dq.dtype)


_BACKWARD = ('bounds', 'q', 'k', 'v', 'do', 'log_sum', 'inner')
"""Inputs of both backward kernels."""

_OF_KEYS = ('k', 'v', 'dk', 'dv')
"""Arrays divided into blocks of keys; the others are divided into blocks of queries."""


def _work(step, update):
  """Runs the update of a step, with or without mask; steps without work do nothing."""
  # Two copies of the update: only pairs at the border of a span need the comparisons.
  kind = step & (schedule.WORK | schedule.MASK)
  pl.when(kind == schedule.WORK)(lambda: update(masked=False))
  pl.when(kind == schedule.WORK | schedule.MASK)(lambda: update(masked=True))


def _scores(q, k, bounds, *, step, sizes, masked):
  """Products of all keys and queries of a step, [k, q]; -inf outside the spans."""
  scores = _dot(k[...], q[...], over=(1, 1))
  if not masked:
    return scores
  index = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
  start, count = bounds[0:1], bounds[1:2]
  start = start - schedule.key_block(step) * sizes.k
  return jnp.where(schedule.sees(index, start, count), scores, -jnp.inf)


def _slopes(scores, v, do, *, log_sum, inner, scale):
  """Probabilities, and `ds` of (2) without the scale of the scores; both [k, q]."""
  weights = jnp.exp2(scores * scale - log_sum[...])
  return weights, weights * (_dot(v[...], do[...], over=(1, 1)) - inner[...])


def _dot(x, y, *, over):
  """Contracts axis `over[0]` of `x` with axis `over[1]` of `y`, in float32."""
  # By default a TPU rounds float32 factors to bfloat16.
  precise = x.dtype == jnp.float32
  return jax.lax.dot_general(
    x,
    y,
    (((over[0],), (over[1],)), ((), ())),
    precision=jax.lax.Precision.HIGHEST if precise else jax.lax.Precision.DEFAULT,
    preferred_element_type=jnp.float32,
  )


def _scale(head_dim):
  """1 / sqrt(d) for base-2 exponentials, the ones that a TPU has an instruction for."""
  return head_dim**-0.5 * math.log2(math.e)


def _natural(scale):
  """1 / sqrt(d), from `_scale`: the factor of (2), applied once to a complete sum."""
  return scale * math.log(2)


def _call(kernel, *, steps, inputs, made, scratch, how, products):
  """Calls a kernel for every row, head and step.

  Args:
    kernel: function of the step, the block sizes, all inputs, outputs and scratch.
    steps: schedule, [b, steps].
    inputs: arrays by name; the name decides how they are divided into blocks.
    made: shape and type of the outputs by name.
    scratch: shapes of the float32 arrays that are kept from step to step.
    how: options of `attend`.
    products: matrix products of a step, for the cost estimate.
  """
  sizes, visible, interpret = how
  b, h, n, d = inputs['q'].shape
  group, keys = h // inputs['k'].shape[1], inputs['k'].shape[2]
  length, pairs = steps.shape[1], int(visible * b * h * n * keys)

  def current(row, number, schedule_ref):
    return schedule_ref[row * length + number]

  def spec(name):
    def index(row, head, number, schedule_ref):
      step = current(row, number, schedule_ref)
      return _index(name, row, head, group=group, step=step)

    return pl.BlockSpec(_shape(name, queries=n, head_dim=d, sizes=sizes), index)

  def body(schedule_ref, *refs):
    kernel(current(pl.program_id(0), pl.program_id(2), schedule_ref), sizes, *refs)

  shapes = [jax.ShapeDtypeStruct(*each) for each in made.values()]
  moved = sum(x.size * x.dtype.itemsize for x in (*inputs.values(), *shapes))
  return pl.pallas_call(
    body,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,  # the schedule, which decides what is fetched
      # As many steps as the longest row of this batch takes. The last step of a shorter
      # row is repeated without flags: the same blocks, neither fetched nor computed.
      grid=(b, h, schedule.steps(steps)),
      in_specs=[spec(name) for name in inputs],
      out_specs=[spec(name) for name in made],
      scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch.values()],
    ),
    out_shape=shapes,
    compiler_params=pltpu.CompilerParams(
      # Steps run in order, since scratch is carried from one to the next.
      dimension_semantics=('parallel', 'parallel', 'arbitrary'),
    ),
    # A head narrower than the matrix unit takes as long as one that fills it.
    cost_estimate=pl.CostEstimate(
      flops=2 * products * pairs * max(d, 128),
      transcendentals=pairs,
      bytes_accessed=moved,
    ),
    interpret=interpret,
    name=f'span{kernel.func.__name__}',
  )(steps.reshape(-1), *inputs.values())


def _shape(name, *, queries, head_dim, sizes):
  """Block shape of an array; None is an axis of which a step sees one entry."""
  if name == 'bounds':
    return None, 2, sizes.q
  if name in ('log_sum', 'inner'):
    return None, None, 1, sizes.q
  if name == 'head':
    return None, None, queries, head_dim
  return None, None, sizes.k if name in _OF_KEYS else sizes.q, head_dim


def _index(name, row, head, *, group, step):
  """Index of the block of an array that a step works on."""
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
  """Sums the gradients of the query heads of each key head, [b, g, n, d]."""
  b, g, n, d = like.shape
  return jnp.sum(x.reshape(b, g, -1, n, d), axis=2).astype(like.dtype)
