"""Spans and arrays that every backend of span attention is tried on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from transfusion_jax.ops import (
  attention,
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


def through_xla(q, k, v, spans, *, backend):
  return attention.attend(q, k, v, spans, backend=backend)


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
