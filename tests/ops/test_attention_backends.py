"""Every backend of span attention keeps one contract: the dense one, in float32.

Blocks are of 128, so that short rows hold several; the TPU's kernel runs interpreted.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from tests.support import attention_cases
from transfusion_jax.ops import (
  attention,
  attention_tpu,
  attention_xla,
  schedule,
  span,
)


def interpreted(q, k, v, spans):
  plan = schedule.plan(spans, k.shape[2], attention_cases.BLOCKS)
  return attention_tpu.attend(
    q, k, v, plan, sizes=attention_cases.BLOCKS, interpret=True
  )


def two_walks(q, k, v, spans):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(attention_tpu, '_WHOLE_HEAD', 0)
    return interpreted(q, k, v, spans)


def in_blocks(q, k, v, spans):
  plan = schedule.plan(spans, k.shape[2], attention_cases.BLOCKS)
  return attention_xla.attend(q, k, v, plan, sizes=attention_cases.BLOCKS)


BACKENDS = {
  'xla_chunked': functools.partial(attention_cases.through_xla, backend='xla_chunked'),
  'xla_blocks': in_blocks,
  'tpu': interpreted,
}


@pytest.mark.parametrize('name', attention_cases.CASES)
@pytest.mark.parametrize('backend', BACKENDS)
def test_equals_the_dense_reference(backend, name):
  attention_cases.check(BACKENDS[backend], name)


@pytest.mark.parametrize('name', ['float32-64', 'bfloat16-128'])
def test_long_rows_take_a_walk_of_their_own_for_the_queries(name):
  attention_cases.check(two_walks, name)


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
    found = jax.jit(functools.partial(attention_cases.through_xla, backend='tpu'))(
      q, k, v, spans
    )
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize('backend', ['xla', 'xla_blocks', 'tpu', 'gpu'])
def test_prepared_spans_change_nothing(backend):
  (q, k, v, _), spans, _ = attention_cases.random_case('float32-64')
  prepared = attention.prepare(spans, k.shape[2], backend=backend)
  assert isinstance(prepared, schedule.Plan)
  attend = functools.partial(attention_cases.through_xla, backend=backend)
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
  (q, k, v, _), spans, _ = attention_cases.random_case('float32-64')
  q, spans = q[:, :, :queries], jax.tree.map(lambda x: x[:, :queries], spans)
  found, expected = (
    attention_cases.through_xla(q, k, v, spans, backend=x) for x in (backend, same)
  )
  np.testing.assert_array_equal(found, expected)
  prepared = attention.prepare(spans, k.shape[2], backend=backend)
  assert isinstance(prepared, schedule.Plan) == (same == 'xla_blocks')


@pytest.mark.parametrize('backend', ['xla_dense', 'xla_chunked'])
def test_what_does_not_skip_takes_spans(backend):
  _, spans, _ = attention_cases.random_case('float32-64')
  assert attention.prepare(spans, 256, backend=backend) is spans


def test_few_queries_go_to_xla():
  (q, k, v, _), spans, _ = attention_cases.random_case('float32-64')
  q, few = q[:, :, :5], jax.tree.map(lambda x: x[:, :5], spans)
  assert attention.prepare(few, k.shape[2], backend='tpu') is few
  found, expected = (
    attention.attend(q, k, v, few, backend=backend) for backend in ('tpu', 'xla')
  )
  np.testing.assert_array_equal(found, expected)


def test_the_kernel_says_that_a_cpu_cannot_run_it():
  (q, k, v, _), spans, _ = attention_cases.random_case('float32-64')
  with pytest.raises(ValueError, match='CPU'):
    attention.attend(q, k, v, spans, backend='tpu')


def test_an_unknown_backend_is_an_error():
  (q, k, v, _), spans, _ = attention_cases.random_case('float32-64')
  with pytest.raises(ValueError, match='xla_blocks'):
    attention.attend.__wrapped__(q, k, v, spans, backend='cuda')


@pytest.mark.parametrize(
  'kind',
  [
    attention_cases.packed,
    attention_cases.scattered,
    attention_cases.striped,
    attention_cases.cached,
  ],
)
def test_schedules_hold_every_visible_pair_of_blocks_once(kind):
  rng = np.random.default_rng(3)
  for queries, keys in ((512, 512), (300, 900)):
    made = [kind(rng, queries, keys) for _ in range(10)]
    start, end = (jnp.asarray(x, jnp.int32) for x in np.array(made).transpose(1, 0, 2))
    spans = span.Span(start, end)
    plan = schedule.plan(spans, keys, attention_cases.BLOCKS)
    seen = np.asarray(span.visible(spans, keys))
    seen = np.pad(seen, ((0, 0), (0, -queries % 128), (0, -keys % 128)))
    seen = seen.reshape(10, -(-queries // 128), 128, -(-keys // 128), 128)
    for steps, own in ((plan.by_query, 0), (plan.by_key, 1)):
      for row in range(10):
        check_schedule(
          np.asarray(steps)[row], own, seen[row], kind is attention_cases.packed
        )


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
