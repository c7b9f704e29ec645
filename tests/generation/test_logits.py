"""Choosing tokens: temperatures, and what the filters leave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transfusion_jax.generation import logits as logits_lib

COUNT = 8000
LOGITS = np.array([0.0, 1.0, 2.0, -np.inf, 3.0])


def choices(rows, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
  return logits_lib.Choices(
    jnp.full((rows,), temperature, jnp.float32),
    jnp.full((rows,), top_k, jnp.int32),
    jnp.full((rows,), top_p, jnp.float32),
    jnp.full((rows,), min_p, jnp.float32),
  )


def shares(**settings):
  keys = jax.random.split(jax.random.key(0), COUNT)
  rows = jnp.tile(jnp.asarray(LOGITS, jnp.float32)[None], (COUNT, 1))
  drawn = logits_lib.choose(keys, rows, choices(COUNT, **settings), filtered=True)
  return np.bincount(np.asarray(drawn), minlength=len(LOGITS)) / COUNT


def expected(kept, temperature=1.0):
  weights = np.where(np.isin(np.arange(5), kept), np.exp(LOGITS / temperature), 0.0)
  return weights / weights.sum()


@pytest.mark.parametrize(
  ('settings', 'kept'),
  [
    ({}, [0, 1, 2, 4]),
    ({'temperature': 2.0}, [0, 1, 2, 4]),
    ({'top_k': 2}, [2, 4]),
    ({'top_k': 1}, [4]),
    ({'top_k': 99}, [0, 1, 2, 4]),
    ({'top_p': 0.64}, [4]),  # of 0.644, 0.237, 0.087, 0.032
    ({'top_p': 0.65}, [2, 4]),
    ({'top_p': 0.9}, [1, 2, 4]),
    ({'min_p': 0.3}, [2, 4]),  # 0.237 is 0.37 times 0.644; 0.087 is 0.135 times
    ({'min_p': 0.1}, [1, 2, 4]),
    ({'min_p': 1.0}, [4]),
    ({'top_k': 3, 'top_p': 0.7}, [2, 4]),  # of 0.665, 0.245, 0.09
    ({'top_k': 3, 'top_p': 0.66}, [4]),  # 0.644 of all would not have been enough
  ],
)
def test_drawn_tokens_follow_the_softmax_of_what_is_left(settings, kept):
  found = shares(**settings)
  wanted = expected(kept, settings.get('temperature', 1.0))
  np.testing.assert_allclose(found, wanted, atol=0.02)
  assert not found[wanted == 0].any()


def test_rows_choose_each_in_its_own_way():
  keys = jax.random.split(jax.random.key(0), 2)
  rows = jnp.tile(jnp.asarray(LOGITS, jnp.float32)[None], (2, 1))
  mixed = logits_lib.Choices(
    jnp.array([0.0, 5.0]), jnp.array([0, 2]), jnp.ones(2), jnp.zeros(2)
  )
  found = logits_lib.choose(keys, rows, mixed, filtered=True)
  assert int(found[0]) == 4
  assert int(found[1]) in (2, 4)


def test_without_filters_nothing_is_sorted():
  traced = str(
    jax.make_jaxpr(lambda *given: logits_lib.choose(*given, filtered=False))(
      jax.random.split(jax.random.key(0), 1), jnp.zeros((1, 5)), choices(1)
    )
  )
  assert 'sort' not in traced


@pytest.mark.parametrize(
  ('field', 'value'),
  [('temperature', -1.0), ('top_k', -1), ('top_p', 0.0), ('min_p', 1.5), ('limit', -1)],
)
def test_settings_that_mean_nothing_are_refused(field, value):
  values = {'temperature': 1.0, 'top_k': 0, 'top_p': 1.0, 'min_p': 0.0, 'limit': 3}
  with pytest.raises(ValueError, match=f'expected {field} from'):
    logits_lib.TextSampling(**{**values, field: value})
