"""Context parallelism: the same attention, whatever device has which positions."""

import functools
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from tests.support import attention_cases
from transfusion_jax.core import axes, sharding
from transfusion_jax.ops import (
  attention,
  attention_tpu,
  context,
  rope,
  rope_tpu,
  schedule,
  span,
)
from transfusion_jax.training import mesh as mesh_lib

ROWS, LENGTH, HEADS, KEY_HEADS, HEAD_DIM = 4, 96, 4, 2, 8


def random_case(length=LENGTH):
  """Rows of packed documents with images, of anything, of padding, of one image."""
  rng = np.random.default_rng(0)
  made = [attention_cases.packed(rng, length, length) for _ in range(ROWS)]
  made[1] = attention_cases.scattered(rng, length, length)
  made[2] = (np.zeros(length, int), np.full(length, length))
  start, end = (jnp.asarray(x, jnp.int32) for x in np.array(made).transpose(1, 0, 2))
  keys = jax.random.split(jax.random.key(0), 4)
  heads = (HEADS, KEY_HEADS, KEY_HEADS, HEADS)
  arrays = [
    jax.random.normal(key, (ROWS, h, length, HEAD_DIM))
    for key, h in zip(keys, heads, strict=True)
  ]
  return arrays, span.Span(start, end)


def values_and_gradients(q, k, v, do, spans, *, backend='xla'):
  """As the transformer calls it."""

  def attend(q, k, v):
    prepared = context.prepare(spans, k.shape[2], backend=backend)
    return context.attend(q, k, v, prepared, backend=backend)

  o, pull = jax.vjp(attend, q, k, v)
  return o, *pull(do)


def on(sizes, function, *arguments):
  """What a function gives on a mesh, and what it was compiled to."""
  mesh = mesh_lib.make(mesh_lib.MeshConfig(*sizes))
  whole = jax.device_put(arguments, axes.replicated(mesh))
  compiled = jax.jit(sharding.on(mesh, function)).lower(*whole).compile()
  return compiled(*whole), compiled.as_text()


@pytest.mark.parametrize(
  'sizes', [(1, 1, 8, 1), (1, 2, 2, 2), (2, 2, 2, 1), (1, 1, 4, 2), (8, 1, 1, 1)]
)
def test_equals_one_device_in_values_and_gradients(sizes):
  arrays, spans = random_case()
  expected = values_and_gradients(*arrays, spans)
  found, _ = on(sizes, values_and_gradients, *arrays, spans)
  for x, y in zip(found, expected, strict=True):
    np.testing.assert_allclose(x, y, atol=3e-6)


@pytest.mark.parametrize(
  ('sizes', 'queries', 'keys'),
  [
    ((2, 2, 2, 1), 1, 96),
    ((1, 1, 4, 2), 1, 96),
    ((1, 1, 4, 2), 12, 96),
    ((1, 1, 4, 2), 8, 97),
    ((1, 1, 4, 2), 16, 96),
    ((1, 2, 2, 2), 262, 512),
  ],
)
def test_any_number_of_queries_reads_a_cache(sizes, queries, keys):
  """One of decoding, others that do not divide, keys that do not, and some that do.

  The last case skips blocks: its schedules are whole on every device.
  """
  (q, k, v, do), spans = random_case(length=keys)
  some = slice(keys // 3, keys // 3 + queries)
  spans = jax.tree.map(lambda x: x[:, some], spans)
  case = (q[:, :, some], k, v, do[:, :, some], spans)
  expected = values_and_gradients(*case)
  found, _ = on(sizes, values_and_gradients, *case)
  for x, y in zip(found, expected, strict=True):
    np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize(
  ('sizes', 'rows', 'local'), [((8, 1, 1, 1), 3, 3), ((2, 2, 1, 2), 6, 3)]
)
def test_rows_that_do_not_divide_are_whole_where_they_do_not(
  sizes, rows, local, monkeypatch
):
  """A kernel cannot be left to the compiler, which cannot divide it."""
  arrays, spans = random_case()
  arrays, spans = jax.tree.map(
    lambda x: jnp.tile(x, (2,) + (1,) * (x.ndim - 1))[:rows], (arrays, spans)
  )
  expected = values_and_gradients(*arrays, spans)
  seen = []
  attend = attention.attend

  def watched(q, *rest, **options):
    seen.append(len(q))
    return attend(q, *rest, **options)

  monkeypatch.setattr(attention, 'attend', watched)
  found, _ = on(sizes, values_and_gradients, *arrays, spans)
  assert set(seen) == {local}
  for x, y in zip(found, expected, strict=True):
    np.testing.assert_allclose(x, y, atol=3e-6)


def test_keys_are_gathered_and_their_gradients_come_back():
  arrays, spans = random_case()
  _, text = on((1, 2, 4, 1), values_and_gradients, *arrays, spans)
  row = 1 / 2 * ROWS
  gathered = rf'f32\[{row:.0f},{KEY_HEADS},{LENGTH},{HEAD_DIM}\]\S* all-gather'
  assert re.search(gathered, text)
  assert 'reduce-scatter' in text


@pytest.mark.parametrize('sizes', [(1, 1, 8, 1), (1, 2, 2, 2)])
def test_a_device_may_have_too_few_queries_to_skip(sizes):
  """Blocks of the row would be worth while; of 64 queries of a device they are not."""
  arrays, spans = random_case(length=512)
  expected = values_and_gradients(*arrays, spans)
  found, _ = on(sizes, values_and_gradients, *arrays, spans)
  for x, y in zip(found, expected, strict=True):
    np.testing.assert_allclose(x, y, atol=1e-5)


def test_the_kernel_takes_the_queries_of_a_device():
  arrays, spans = random_case(length=512)
  expected = values_and_gradients(*arrays, spans)
  with pltpu.force_tpu_interpret_mode():
    attend = functools.partial(values_and_gradients, backend='tpu')
    found, _ = on((4, 1, 2, 1), attend, *arrays, spans)
  for x, y in zip(found, expected, strict=True):
    np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize('sizes', [(4, 1, 2, 1), (1, 2, 2, 2), (1, 1, 2, 4)])
def test_every_device_rotates_its_own(sizes, monkeypatch):
  """Rows, positions and heads; the last mesh has more devices than heads."""
  x = jax.random.normal(jax.random.key(0), (ROWS, 2, 512, 64))
  position = jnp.arange(512)[None] + 100 * jnp.arange(ROWS)[:, None]

  def rotated(x, position, *, backend):
    by = rope.rotation(position, head_dim=64, base=1e4)
    y, pull = jax.vjp(lambda x: context.rotate(x, by, backend=backend), x)
    return y, *pull(y)

  expected = rotated(x, position, backend='xla')
  interpreted = functools.partial(rope_tpu.rotate, interpret=True)
  monkeypatch.setattr(rope_tpu, 'rotate', interpreted)
  found, text = on(sizes, functools.partial(rotated, backend='tpu'), x, position)
  assert 'all-gather' not in text
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
  ('sizes', 'pictures', 'part'),
  [
    ((1, 2, 2, 2), (4, 2), (1, 1)),
    ((1, 1, 4, 2), (4, 3), (1, 3)),
    ((1, 2, 4, 1), (4, 1), (2, 1)),
  ],
)
def test_pictures_go_through_the_kernel(sizes, pictures, part, monkeypatch):
  """Divided over rows and positions alike, and heads; what does not divide is whole."""
  monkeypatch.setattr(attention, '_LARGE', 256)
  keys = jax.random.split(jax.random.key(0), 4)
  arrays = [jax.random.normal(key, (*pictures, 256, 32)) for key in keys]

  def attended(q, k, v, do, *, backend):
    o, pull = jax.vjp(functools.partial(context.attend_all, backend=backend), q, k, v)
    return o, *pull(do)

  expected = attended(*arrays, backend='xla')
  kernel = mock.Mock(wraps=functools.partial(attention_tpu.attend, interpret=True))
  monkeypatch.setattr(attention_tpu, 'attend', kernel)
  found, _ = on(sizes, functools.partial(attended, backend='tpu'), *arrays)
  kernel.assert_called_once()
  assert kernel.call_args.args[0].shape == (*part, 256, 32)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(('pixels', 'head_dim'), [(256, 8), (1024, 512)])
def test_pictures_that_are_left_to_the_compiler(pixels, head_dim, monkeypatch):
  """Small ones, and heads too wide for the kernel's fast memory."""
  monkeypatch.setattr(attention_tpu, 'attend', mock.Mock())
  q = jax.random.normal(jax.random.key(0), (2, 1, pixels, head_dim))
  dense = context.attend_all(q, q, q, backend='xla')
  np.testing.assert_array_equal(context.attend_all(q, q, q, backend='tpu'), dense)
  attention_tpu.attend.assert_not_called()


def test_a_schedule_of_every_device():
  _, spans = random_case(length=1024)
  prepare = functools.partial(context.prepare, keys=1024, backend='tpu')
  plan, _ = on((4, 1, 2, 1), prepare, spans)
  assert plan.by_query.shape == (ROWS, 2 * (512 // 512) * (1024 // 512))
  assert plan.bounds.shape == (ROWS, 2, 1024)
  # Of four chunks the second device has the inner two, the later one first.
  inner = np.r_[512:768, 256:512]
  half = attention.prepare(
    jax.tree.map(lambda x: x[:, inner], spans), 1024, backend='tpu'
  )
  np.testing.assert_array_equal(plan.by_query[:, 2:], half.by_query)


@pytest.mark.parametrize('parts', [2, 4])
def test_devices_share_a_causal_row_evenly(parts):
  length = 64 * parts
  end = jnp.arange(1, length + 1)[None]
  spans = span.Span(*(jnp.tile(x, (8, 1)) for x in (jnp.zeros_like(end), end)))
  prepare = functools.partial(context.prepare, keys=length, backend='xla_dense')
  dealt, _ = on((8 // parts, 1, parts, 1), prepare, spans)
  seen = np.asarray(dealt.end[0]).reshape(parts, -1).sum(axis=1)
  assert (seen == seen[0]).all()


def test_without_a_mesh_nothing_is_moved():
  _, spans = random_case()
  assert context.prepare(spans, LENGTH, backend='xla_dense') is spans
  assert isinstance(
    context.prepare(random_case(length=256)[1], 256, backend='tpu'), schedule.Plan
  )
