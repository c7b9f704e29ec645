"""Blocks that no query sees are not visited: their numbers do not count."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import extend

from transfusion_jax.ops import attention, schedule, span

DOCUMENT, IMAGE = 512, slice(128, 384)


def documents(length, rows=2):
  """Rows of documents of 512 positions, half of each an image."""
  place = np.arange(length)
  start = place // DOCUMENT * DOCUMENT
  inside = place - start
  patch = (inside >= IMAGE.start) & (inside < IMAGE.stop)
  end = np.where(patch, start + IMAGE.stop, place + 1)
  return span.Span(
    *(jnp.asarray(np.tile(x, (rows, 1)), jnp.int32) for x in (start, end))
  )


def inputs(length, rows=2):
  keys = jax.random.split(jax.random.key(0), 4)
  return [jax.random.normal(key, (rows, 2, length, 8)) for key in keys]


@jax.jit
def values_and_gradients(q, k, v, do, spans):
  o, pull = jax.vjp(
    lambda q, k, v: attention.attend(q, k, v, spans, backend='xla_blocks'), q, k, v
  )
  return o, *pull(do)


def test_steps_grow_with_the_length_and_not_with_its_square():
  counts = []
  for length in (1024, 2048, 4096):
    plan = attention.prepare(documents(length), length, backend='xla')
    assert isinstance(plan, schedule.Plan)
    counts.append(int(schedule.steps(plan.by_query)))
  assert counts == [length // DOCUMENT for length in (1024, 2048, 4096)]


def test_hidden_blocks_are_not_read():
  """Of three documents nobody looks at the second; its keys and values are NaN."""
  length, hidden = 3 * DOCUMENT, slice(DOCUMENT, 2 * DOCUMENT)
  spans = documents(length)
  alone = jax.tree.map(lambda x: x.at[:, hidden].set(0), spans)
  q, k, v, do = inputs(length)
  poisoned = [x.at[:, :, hidden].set(jnp.nan) for x in (k, v)]
  found = values_and_gradients(q, *poisoned, do, alone)
  for x, y in zip(found, values_and_gradients(q, k, v, do, alone), strict=True):
    assert np.isfinite(x).all()
    np.testing.assert_array_equal(x, y)
    assert not np.asarray(x[:, :, hidden]).any()
  # And were they read, it would show.
  assert not np.isfinite(
    values_and_gradients(q, *[k * jnp.nan] * 2, do, spans)[0]
  ).all()


def test_padding_takes_no_steps_of_the_walk():
  """A row of padding alone reads no key at all."""
  length = 2 * DOCUMENT
  spans = documents(length)
  spans = jax.tree.map(lambda x: x.at[1].set(0), spans)
  q, k, v, do = inputs(length)
  k, v = (x.at[1].set(jnp.nan) for x in (k, v))
  for x in values_and_gradients(q, k, v, do, spans):
    assert np.isfinite(x).all()
    assert not np.asarray(x[1]).any()


def test_no_array_has_the_size_of_all_scores():
  length = 2048
  spans = documents(length, rows=1)

  def sizes(jaxpr):
    for equation in jaxpr.eqns:
      yield from (each.aval.size for each in equation.outvars)
      for inner in extend.core.jaxprs_in_params(equation.params):
        yield from sizes(inner)

  arrays = inputs(length, rows=1)
  traced = jax.make_jaxpr(lambda *x: values_and_gradients(*x, spans))(*arrays)
  assert max(sizes(traced.jaxpr)) < length * length // 4
