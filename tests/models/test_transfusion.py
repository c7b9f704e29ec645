"""The whole model: what leaks, what packing changes (nothing), `place` and `pick`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.models import transfusion


def predict(batch, t=None, noised=None, **changes):
  """Logits and predicted images as NumPy."""
  t = tiny.levels(batch) if t is None else t
  noised = batch.images if noised is None else noised
  found = tiny.forward(tiny.model(**changes), batch, noised, t)
  return tuple(np.asarray(each) for each in found)


@pytest.mark.parametrize('adapter', ['linear', 'unet'])
def test_packing_is_the_identity_on_every_document(adapter):
  documents = tiny.varied()
  single = tiny.alone(documents)
  levels = tiny.levels(single)
  logits, images = predict(single, levels, adapter=adapter)
  bins = [[0, 1, 2], [3], [4, 5, 0]]
  packed = tiny.batch([[documents[k] for k in row] for row in bins] + [[]] * 5)
  rows = np.zeros(packed.noise_cap.shape, np.float32)
  for row, members in enumerate(bins):
    own = np.concatenate([levels[k, : len(documents[k].images)] for k in members])
    rows[row, : len(own)] = own
  packed_logits, packed_images = predict(packed, jnp.asarray(rows), adapter=adapter)
  for row, members in enumerate(bins):
    begin = image = 0
    for k in members:
      n, i = len(documents[k]), len(documents[k].images)
      here, there = (
        packed_logits[row, begin : begin + n],
        packed_images[row, image : image + i],
      )
      np.testing.assert_allclose(here, logits[k, :n], atol=2e-5)
      np.testing.assert_allclose(there, images[k, :i], atol=2e-5)
      begin, image = begin + n, image + i


def changed_positions(row, change):
  """Where logits change when something in a row does."""
  base = tiny.rows_of(tiny.mixed_batch(), jnp.full((8,), row))
  old, _ = predict(base)
  new, _ = predict(*change(base))
  return np.abs(new - old).max(-1) > 0


def test_a_changed_word_changes_what_follows_in_its_document_alone():
  base = tiny.rows_of(tiny.mixed_batch(), jnp.full((8,), 0))
  own = np.asarray(base.start[0])
  words = [1, 3, 8, 10, 26]

  def change(batch):
    tokens = batch.tokens
    for k, j in enumerate(words):
      tokens = tokens.at[k, j].set((tokens[k, j] + 1) % 16)
    return (tiny.replaced(batch, tokens=tokens),)

  found = changed_positions(0, change)
  i = np.arange(tiny.LENGTH)
  inside = np.asarray(base.end[0]) > own
  for k, j in enumerate(words):
    assert int(base.slot[0, j]) == -1
    np.testing.assert_array_equal(found[k], (i >= j) & (own == own[j]) & inside)
  assert not found[len(words) :].any()


def test_a_changed_patch_changes_its_whole_image_and_nothing_before():
  row = 1  # text, image, text, image, text
  base = tiny.rows_of(tiny.mixed_batch(), jnp.full((8,), row))
  slot = np.asarray(base.slot[0])

  def change(batch):
    images = batch.images
    for k in range(8):  # one latent pixel of each patch of both images
      y, x = divmod(k % 4, 2)
      images = images.at[k, k // 4, 2 * y, 2 * x].add(1.0)
    return (batch, None, images)

  found = changed_positions(row, change)
  inside = np.asarray(base.end[0] > base.start[0])
  for k in range(8):
    first = np.flatnonzero(slot == 4 * (k // 4))[0]
    np.testing.assert_array_equal(found[k], (np.arange(tiny.LENGTH) >= first) & inside)


def test_the_noise_level_matters_to_its_image_and_to_what_follows():
  batch = tiny.rows_of(tiny.mixed_batch(), jnp.full((8,), 1))
  levels = jnp.full((8, tiny.SLOTS), 0.5)
  logits, images = predict(batch, levels)
  new_logits, new_images = predict(batch, levels.at[0, 1].set(0.51))
  moved = np.abs(new_images - images).max((-1, -2, -3)) > 1e-6
  assert moved[0, 1]
  assert not moved[0, 0]
  assert not moved[1:].any()
  second = np.flatnonzero(np.asarray(batch.slot[0]) == 4)[0]
  moved = np.abs(new_logits - logits)[0].max(-1) > 0
  inside = np.asarray(batch.end[0] > batch.start[0])
  np.testing.assert_array_equal(moved, (np.arange(tiny.LENGTH) >= second) & inside)


def test_what_stands_under_patches_and_padding_is_not_read():
  batch = tiny.mixed_batch()
  hidden = (batch.slot >= 0) | (batch.end == batch.start)
  other = tiny.replaced(batch, tokens=jnp.where(hidden, 3, batch.tokens))
  outside = np.asarray(batch.end > batch.start)
  (old, old_images), (new, new_images) = predict(batch), predict(other)
  np.testing.assert_array_equal(old[outside], new[outside])
  np.testing.assert_array_equal(old_images, new_images)


def test_empty_image_slots_are_not_read():
  batch = tiny.mixed_batch()
  shown = np.zeros(batch.noise_cap.shape, bool)
  for row, patch in zip(*np.nonzero(np.asarray(batch.slot) >= 0), strict=True):
    shown[row, int(batch.slot[row, patch]) // tiny.PATCHES] = True
  assert not shown.all()
  poison = jnp.where(shown[..., None, None, None], batch.images, 1e3)
  np.testing.assert_array_equal(predict(batch)[0], predict(batch, noised=poison)[0])


def test_rows_of_the_table_that_are_no_tokens_are_never_likely():
  logits, _ = predict(tiny.mixed_batch())
  assert tiny.TABLE > tiny.USED
  assert (logits[..., tiny.USED :] == -1e9).all()
  assert np.abs(logits[..., : tiny.USED]).max() < 1e3


def test_bfloat16_gives_float32_predictions_close_to_float32_compute():
  batch = tiny.mixed_batch()
  for low, high in zip(predict(batch, dtype='bfloat16'), predict(batch), strict=True):
    assert low.dtype == np.float32
    real = np.abs(high) < 1e3
    assert np.abs(low - high)[real].mean() < 0.03 * np.abs(high)[real].mean()


def test_a_batch_without_image_slots_is_read():
  batch = tiny.batch([[tiny.varied()[0]]] * 8, slots=0)
  batch = tiny.replaced(batch, images=jnp.zeros((8, 0, 4, 4, 3)))
  expected, _ = predict(tiny.alone([tiny.varied()[0]]))
  found, images = predict(batch, t=jnp.zeros((8, 0)))
  np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
  assert images.shape == (8, 0, 4, 4, 3)


SLOT = jnp.array([[-1, 3, 0, -1, 1, -1], [2, -1, -1, -1, 5, 4]])
X = jax.random.normal(jax.random.key(0), (2, 6, 3))
Y = jax.random.normal(jax.random.key(1), (2, 6, 3))
ONE_HOT = jax.nn.one_hot(SLOT, 6)  # zeros for -1


def test_place_and_pick_equal_a_one_hot_product():
  np.testing.assert_allclose(
    transfusion.place(X, SLOT), jnp.einsum('btp,bpe->bte', ONE_HOT, X), atol=1e-6
  )
  np.testing.assert_allclose(
    transfusion.pick(Y, SLOT, 6), jnp.einsum('btp,bte->bpe', ONE_HOT, Y), atol=1e-6
  )


def test_place_and_pick_are_transposes_and_inverse_on_patches():
  placed, picked = transfusion.place(X, SLOT), transfusion.pick(Y, SLOT, 6)
  np.testing.assert_allclose(jnp.vdot(placed, Y), jnp.vdot(X, picked), rtol=1e-5)
  again = np.asarray(transfusion.pick(placed, SLOT, 6))
  present = np.asarray(ONE_HOT.sum(1) > 0)
  np.testing.assert_array_equal(again[present], np.asarray(X)[present])
  assert not again[~present].any()


@pytest.mark.parametrize('move', ['place', 'pick'])
def test_the_custom_gradient_equals_that_of_the_dense_product(move):
  def ours(x):
    out = (
      transfusion.place(x, SLOT) if move == 'place' else transfusion.pick(x, SLOT, 6)
    )
    return jnp.sum(jnp.sin(out) * Y)

  def dense(x):
    letters = 'btp,bpe->bte' if move == 'place' else 'btp,bte->bpe'
    return jnp.sum(jnp.sin(jnp.einsum(letters, ONE_HOT, x)) * Y)

  np.testing.assert_allclose(jax.grad(ours)(X), jax.grad(dense)(X), atol=1e-6)


def test_the_gradient_of_a_frequent_token_is_added_up_in_float32():
  """In bfloat16 a sum of 4096 ones stops at 256."""
  tokens = jnp.zeros((1, 4096), jnp.int32)

  def total(embedding):
    model = tiny.blueprint(dtype='bfloat16').definition.bind(
      {**tiny.params(dtype='bfloat16'), 'embedding': embedding}
    )
    return jnp.sum(model.embed(tokens).astype(jnp.float32))

  gradient = jax.grad(total)(tiny.params(dtype='bfloat16')['embedding'])
  np.testing.assert_allclose(gradient[0], 4096.0, rtol=1e-3)
