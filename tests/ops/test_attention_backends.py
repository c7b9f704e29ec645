"""Every backend of span attention keeps one contract: the dense one, in float32.

Blocks are of 128, so that short rows hold several; the TPU's kernel runs interpreted.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from transfusion_jax.ops import (
  attention,
  attention_tpu,
  attention_xla,
  schedule,
  span,
)

LAYOUTS, BATCH = 50, 5  # of every case, and how many at a time
BLOCKS = schedule.Blocks(128, 128)
CASES = {
  # dtype, heads, key heads, head dim, queries, keys
  'float32-64': (jnp.float32, 2, 1, 64, 256, 256),
  'float32-128': (jnp.float32, 1, 1, 128, 256, 384),
  'float32-256': (jnp.float32, 1, 1, 256, 200, 300),
  'float32-24': (jnp.float32, 6, 2, 24, 300, 200),
  'bfloat16-64': (jnp.bfloat16, 3, 1, 64, 384, 256),
  'bfloat16-128': (jnp.bfloat16, 4, 2, 128, 256, 256),
}
TOLERANCE = {jnp.float32: 1e-5, jnp.bfloat16: 2e-2}


def document(rng, start, length):
  """Spans of a document with images at random places."""
  at = np.arange(start, start + length)
  first, after = np.full(length, start), at + 1
  position = rng.integers(0, 20)
  while position < length:
    patches = min(int(rng.integers(1, 90)), length - position)
    after[position : position + patches] = start + position + patches
    position += patches + int(rng.integers(0, 60))
  return first, after


def packed(rng, queries, keys):
  """Documents one after the other and padding behind them; every key is a query too."""
  start, end = np.zeros((2, max(queries, keys)), int)
  position = 0
  while position < len(start) - 8 and rng.random() < 0.9:
    length = int(rng.integers(8, len(start) - position + 1))
    stretch = slice(position, position + length)
    start[stretch], end[stretch] = document(rng, position, length)
    position += length
  return start[:queries], np.minimum(end[:queries], keys)


def scattered(rng, queries, keys):
  """Any spans: neither start nor end is monotone, a third is empty."""
  start, end = np.sort(rng.integers(0, keys + 1, (2, queries)), axis=0)
  return start, np.where(rng.random(queries) < 0.3, start, end)


def striped(rng, queries, keys):
  """Blocks of queries that look at distant or at no keys, out of order."""
  edges = rng.integers(0, keys + 1, (2, 8))
  which = np.repeat(rng.integers(0, 8, -(-queries // 32)), 32)[:queries]
  return np.min(edges, axis=0)[which], np.max(edges, axis=0)[which]


def cached(rng, queries, keys):
  """The last queries of a row whose past is in a cache."""
  past = max(int(rng.integers(0, keys)) - queries, 0)
  return np.full(queries, past // 3), np.minimum(past + 1 + np.arange(queries), keys)


def layouts(rng, queries, keys):
  kinds = [packed, packed, scattered, striped, cached]
  made = [kinds[i % len(kinds)](rng, queries, keys) for i in range(LAYOUTS)]
  start, end = np.array(made).transpose(1, 0, 2)
  start[3], end[3] = 0, 0  # a row of padding
  start[4], end[4] = 0, keys  # all of it
  return span.Span(jnp.asarray(start, jnp.int32), jnp.asarray(end, jnp.int32))


def random_case(name):
  dtype, h, g, d, n, m = CASES[name]
  rng = np.random.default_rng(sorted(CASES).index(name))
  shapes = [(LAYOUTS, h, n, d), *[(LAYOUTS, g, m, d)] * 2, (LAYOUTS, h, n, d)]
  arrays = [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]
  return arrays, layouts(rng, n, m), TOLERANCE[dtype]


def interpreted(q, k, v, spans):
  plan = schedule.plan(spans, k.shape[2], BLOCKS)
  return attention_tpu.attend(q, k, v, plan, sizes=BLOCKS, interpret=True)


def two_walks(q, k, v, spans):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(attention_tpu, '_WHOLE_HEAD', 0)
    return interpreted(q, k, v, spans)


def in_blocks(q, k, v, spans):
  plan = schedule.plan(spans, k.shape[2], BLOCKS)
  return attention_xla.attend(q, k, v, plan, sizes=BLOCKS)


def through_xla(q, k, v, spans, *, backend):
  return attention.attend(q, k, v, spans, backend=backend)


BACKENDS = {
  'xla_chunked': functools.partial(through_xla, backend='xla_chunked'),
  'xla_blocks': in_blocks,
  'tpu': interpreted,
}


@functools.partial(jax.jit, static_argnums=0)
def values_and_gradients(attend, q, k, v, spans, do):
  """Batch after batch, since the interpreter copies whole arrays at every step."""

  def one(inputs):
    q, k, v, spans, do = inputs
    o, pull = jax.vjp(lambda q, k, v: attend(q, k, v, spans), q, k, v)
    return o, *pull(do)

  inputs = (q, k, v, spans, do)
  batches = jax.tree.map(lambda x: x.reshape(-1, BATCH, *x.shape[1:]), inputs)
  made = jax.lax.map(one, batches)
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), made)


def check(attend, name):
  (q, k, v, do), spans, tolerance = random_case(name)
  dense = functools.partial(through_xla, backend='xla_dense')
  full = [x.astype(jnp.float32) for x in (q, k, v, do)]
  expected = values_and_gradients(dense, *full[:3], spans, full[3])
  found = values_and_gradients(attend, q, k, v, spans, do)
  for label, x, y in zip(('o', 'dq', 'dk', 'dv'), found, expected, strict=True):
    assert x.dtype == q.dtype
    x, y = (np.asarray(each, np.float64).reshape(LAYOUTS, -1) for each in (x, y))
    assert np.isfinite(x).all(), label
    error, size = np.linalg.norm(x - y, axis=1), np.linalg.norm(y, axis=1)
    worst = np.argmax(error - tolerance * size)
    assert (error <= tolerance * size).all(), (label, worst, error[worst], size[worst])


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('backend', BACKENDS)
def test_equals_the_dense_reference(backend, name):
  check(BACKENDS[backend], name)


@pytest.mark.parametrize('name', ['float32-64', 'bfloat16-128'])
def test_long_rows_take_a_walk_of_their_own_for_the_queries(name):
  check(two_walks, name)


def test_the_backend_pads_and_writes_all_of_its_output():
  """As a user calls it, under the strict interpreter: what is not written is NaN."""
  rng = np.random.default_rng(0)
  q, k, v = (
    jnp.asarray(rng.normal(size=(2, 1, n, 64)), jnp.float32) for n in (600, 700, 700)
  )
  start = jnp.zeros((2, 600), jnp.int32)
  end = jnp.stack([jnp.full(600, 40, jnp.int32), jnp.zeros(600, jnp.int32)])
  spans = span.Span(start, end)
  expected = attention.attend(q, k, v, spans, backend='xla_dense')
  with pltpu.force_tpu_interpret_mode():
    found = jax.jit(functools.partial(through_xla, backend='tpu'))(q, k, v, spans)
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize('backend', ['xla', 'xla_blocks', 'tpu', 'gpu'])
def test_prepared_spans_change_nothing(backend):
  (q, k, v, _), spans, _ = random_case('float32-64')
  prepared = attention.prepare(spans, k.shape[2], backend=backend)
  assert isinstance(prepared, schedule.Plan)
  attend = functools.partial(through_xla, backend=backend)
  if backend == 'tpu':  # does not run here
    assert jax.eval_shape(attend, q, k, v, prepared).shape == q.shape
  else:
    np.testing.assert_array_equal(attend(q, k, v, prepared), attend(q, k, v, spans))


@pytest.mark.parametrize(
  ('backend', 'queries', 'same'),
  [
    ('xla', 256, 'xla_blocks'),
    ('xla', 160, 'xla_dense'),
    ('xla_blocks', 9, 'xla_blocks'),
  ],
)
def test_the_choice_is_by_shape(backend, queries, same):
  (q, k, v, _), spans, _ = random_case('float32-64')
  q, spans = q[:, :, :queries], jax.tree.map(lambda x: x[:, :queries], spans)
  found, expected = (through_xla(q, k, v, spans, backend=x) for x in (backend, same))
  np.testing.assert_array_equal(found, expected)
  prepared = attention.prepare(spans, k.shape[2], backend=backend)
  assert isinstance(prepared, schedule.Plan) == (same == 'xla_blocks')


@pytest.mark.parametrize('backend', ['xla_dense', 'xla_chunked'])
def test_what_does_not_skip_takes_spans(backend):
  _, spans, _ = random_case('float32-64')
  assert attention.prepare(spans, 256, backend=backend) is spans


def test_few_queries_go_to_xla():
  (q, k, v, _), spans, _ = random_case('float32-64')
  q, few = q[:, :, :5], jax.tree.map(lambda x: x[:, :5], spans)
  assert attention.prepare(few, k.shape[2], backend='tpu') is few
  found, expected = (
    attention.attend(q, k, v, few, backend=backend) for backend in ('tpu', 'xla')
  )
  np.testing.assert_array_equal(found, expected)


def test_the_kernel_says_that_a_cpu_cannot_run_it():
  (q, k, v, _), spans, _ = random_case('float32-64')
  with pytest.raises(ValueError, match='CPU'):
    attention.attend(q, k, v, spans, backend='tpu')


def test_an_unknown_backend_is_an_error():
  (q, k, v, _), spans, _ = random_case('float32-64')
  with pytest.raises(ValueError, match='xla_blocks'):
    attention.attend.__wrapped__(q, k, v, spans, backend='cuda')


@pytest.mark.parametrize('kind', [packed, scattered, striped, cached])
def test_schedules_hold_every_visible_pair_of_blocks_once(kind):
  rng = np.random.default_rng(3)
  for queries, keys in ((512, 512), (300, 900)):
    made = [kind(rng, queries, keys) for _ in range(10)]
    start, end = (jnp.asarray(x, jnp.int32) for x in np.array(made).transpose(1, 0, 2))
    spans = span.Span(start, end)
    plan = schedule.plan(spans, keys, BLOCKS)
    seen = np.asarray(span.visible(spans, keys))
    seen = np.pad(seen, ((0, 0), (0, -queries % 128), (0, -keys % 128)))
    seen = seen.reshape(10, -(-queries // 128), 128, -(-keys // 128), 128)
    for steps, own in ((plan.by_query, 0), (plan.by_key, 1)):
      for row in range(10):
        check_schedule(np.asarray(steps)[row], own, seen[row], kind is packed)


def check_schedule(steps, own, seen, monotone):
  """Steps of one row against which query of a block sees which key: [i, q, j, k]."""
  steps = steps[: np.flatnonzero(steps & schedule.LAST)[-1] + 1]
  blocks = (schedule.query_block, schedule.key_block)
  pair = np.stack([np.asarray(block(jnp.asarray(steps))) for block in blocks])
  any_seen, all_seen = seen.any((1, 3)), seen.all((1, 3))
  worked, masked = steps & schedule.WORK != 0, steps & schedule.MASK != 0
  assert len(set(zip(*pair, strict=True))) == len(steps)
  reached = np.zeros_like(any_seen)
  reached[*pair[:, worked]] = True
  assert (reached >= any_seen).all()
  if monotone:
    np.testing.assert_array_equal(reached, any_seen)
  np.testing.assert_array_equal(~masked, all_seen[*pair])
  outer = pair[own]
  assert (np.diff(outer) >= 0).all()
  assert set(outer) == set(range(any_seen.shape[own]))
  np.testing.assert_array_equal(
    steps & schedule.FIRST != 0, np.diff(outer, prepend=-1) > 0
  )
  np.testing.assert_array_equal(
    steps & schedule.LAST != 0, np.diff(outer, append=10**6) > 0
  )
