"""The text half of the loss: learnt where the data says, and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.support import tiny
from transfusion_jax.objectives import language


def hidden(batch):
  return jax.random.normal(jax.random.key(0), (*batch.tokens.shape, 16))


def test_sum_and_count_of_the_learnt_tokens():
  batch = tiny.mixed_batch()
  found = language.next_token(tiny.model(), hidden(batch), batch)
  p = np.asarray(jax.nn.log_softmax(tiny.model().logits(hidden(batch))))
  nats = -np.take_along_axis(p, np.asarray(batch.targets)[..., None], -1)[..., 0]
  learnt = np.asarray(batch.weight) == 1
  np.testing.assert_allclose(found.sum, nats[learnt].sum(), rtol=1e-5)
  assert float(found.count) == learnt.sum()
  np.testing.assert_allclose(found.value, nats[learnt].mean(), rtol=1e-5)


def test_what_is_learnt_follows_the_paper():
  """Nothing from BOI, from patches or from padding; EOI never; BOI from its caption."""
  batch = tiny.mixed_batch()
  learnt = np.asarray(batch.weight) == 1
  tokens, targets = np.asarray(batch.tokens), np.asarray(batch.targets)
  assert not learnt[tokens == tiny.SPECIAL.boi].any()
  assert not learnt[np.asarray(batch.slot) >= 0].any()
  assert not learnt[np.asarray(batch.end == batch.start)].any()
  assert not (targets[learnt] == tiny.SPECIAL.eoi).any()
  assert not (targets[learnt] == tiny.SPECIAL.pad).any()
  assert (targets[learnt] == tiny.SPECIAL.boi).any()
  assert (targets[learnt] == tiny.SPECIAL.eos).any()
  starts = np.asarray(batch.position) == 0
  assert not (targets[learnt] == tiny.SPECIAL.bos).any()  # no document from another
  assert learnt[starts & np.asarray(batch.end > batch.start)].any()


def test_hidden_states_that_are_not_learnt_from_may_be_anything():
  batch = tiny.mixed_batch()
  unlearnt = (batch.weight == 0)[..., None]

  def total(x):
    return language.next_token(tiny.model(), x, batch).sum

  wild = jnp.where(unlearnt, 1e9, hidden(batch))
  np.testing.assert_array_equal(total(wild), total(hidden(batch)))
  gradient = np.asarray(jax.grad(total)(wild))
  assert np.isfinite(gradient).all()
  assert not gradient[np.asarray(batch.weight) == 0].any()
  assert gradient[np.asarray(batch.weight) == 1].any(axis=-1).all()


def test_nothing_to_learn_is_zero_and_not_nan():
  batch = tiny.mixed_batch()
  found = language.next_token(
    tiny.model(),
    hidden(batch),
    tiny.replaced(batch, weight=jnp.zeros_like(batch.weight)),
  )
  assert (float(found.sum), float(found.count), float(found.value)) == (0.0, 0.0, 0.0)
