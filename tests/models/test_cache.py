"""The key-value cache: what is written where."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.support import tiny
from transfusion_jax.models import cache
from transfusion_jax.ops import span as span_lib


def test_rows_are_written_where_each_asks_and_nowhere_else():
  shape = (3, 2, 10, 4)
  old = cache.LayerCache(jnp.full(shape, 1.0), jnp.full(shape, 2.0))
  new = jax.random.normal(jax.random.key(0), (2, 3, 2, 4, 4))
  at = np.array([0, 3, 6])
  written = cache.write(old, new[0], new[1], jnp.asarray(at))
  for found, fill, values in ((written.k, 1.0, new[0]), (written.v, 2.0, new[1])):
    expected = np.full(shape, fill, np.float32)
    for row, index in enumerate(at):
      expected[row, :, index : index + 4] = values[row]
    np.testing.assert_array_equal(found, expected)


def test_a_single_row_and_a_single_position_are_written_alike():
  old = cache.LayerCache(jnp.ones((1, 2, 10, 4)), jnp.ones((1, 2, 10, 4)))
  for t in (1, 3):
    new = jax.random.normal(jax.random.key(t), (1, 2, t, 4))
    for at in (0, 5, 10 - t):
      written = jax.jit(cache.write)(old, new, 2 * new, jnp.array([at]))
      expected = np.ones((1, 2, 10, 4), np.float32)
      expected[:, :, at : at + t] = new
      np.testing.assert_array_equal(written.k, expected)
      expected[:, :, at : at + t] = 2 * new
      np.testing.assert_array_equal(written.v, expected)


def test_an_empty_cache_has_the_shape_and_the_type_asked_for():
  made = tiny.model(dtype='bfloat16').empty_cache(batch=3, length=7)
  assert len(made) == 2
  for layer in made:
    assert layer.k.shape == layer.v.shape == (3, 1, 7, 8)
    assert layer.k.dtype == jnp.bfloat16
    assert not np.asarray(layer.k, np.float32).any()


def test_reading_in_parts_equals_reading_at_once():
  model = tiny.model()
  tokens = jax.random.randint(jax.random.key(0), (2, 12), 0, tiny.USED)
  zeros = jnp.zeros((2, 12), jnp.int32)
  position = zeros + jnp.arange(12)[None]
  at = jnp.zeros(2, jnp.int32)

  @jax.jit
  def read(model, tokens, position, kept, at):
    span = span_lib.Span(jnp.zeros_like(position), position + 1)
    nowhere = jnp.full_like(position, -1)
    none = jnp.zeros((*position.shape[:1], 0, 4, 4, 3))
    hidden, kept = model.read(tokens, nowhere, none, position, span, kept, at)
    return model.logits(hidden), kept

  kept = model.empty_cache(batch=2, length=20)
  whole, all_at_once = read(model, tokens, position, kept, at)
  parts = []
  for begin in range(0, 12, 4):
    here = np.s_[:, begin : begin + 4]
    logits, kept = read(model, tokens[here], position[here], kept, at + begin)
    parts.append(logits)
  np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=1e-5)
  for one, other in zip(kept, all_at_once, strict=True):
    np.testing.assert_allclose(one.k, other.k, atol=1e-5)
    assert not np.asarray(one.k[:, :, 12:]).any()
