"""Blocks that no query sees are not visited: their numbers do not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import extend

from transfusion_jax.ops import attention, attention_xla, schedule, span

DOCUMENT, IMAGE = 512, 256


def documents(length, rows=2, document=DOCUMENT):
  """Rows of documents of text, an image, and as much text again."""
  place = np.arange(length)
  start = place // document * document
  inside, text = place - start, (document - IMAGE) // 2
  patch = (inside >= text) & (inside < text + IMAGE)
  end = np.where(patch, start + text + IMAGE, place + 1)
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


def walked(length, document):
  """Pairs of queries and keys in the blocks that are walked over in a row."""
  plan = attention.prepare(documents(length, 1, document), length, backend='xla')
  assert isinstance(plan, schedule.Plan)
  sizes = attention_xla.blocks(length, length)
  return int(schedule.steps(plan.by_query)) * sizes.q * sizes.k


@pytest.mark.parametrize('length', [1024, 2048, 4096])
def test_steps_grow_with_the_length_and_not_with_its_square(length):
  assert walked(length, DOCUMENT) == length * DOCUMENT


@pytest.mark.parametrize(('count', 'times'), [(2, 2.24), (4, 2.08), (16, 2.08)])
def test_documents_that_do_not_end_with_blocks(count, times):
  """Blocks that two documents share are walked over for both, and few others."""
  assert walked(320 * count, 320) == round(times * 320 * 320 * count)


@pytest.mark.parametrize(
  ('length', 'sizes'),
  [(9, (128, 128)), (384, (384, 384)), (512, (256, 256)), (640, (256, 256))],
)
def test_a_short_row_is_one_block_and_others_are_cut_evenly(length, sizes):
  assert attention_xla.blocks(length, length) == sizes
  assert attention_xla.blocks(length, 4096) == (sizes[0], 512 if length <= 384 else 256)


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
