"""The image half of the loss: noise levels, targets, buckets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.diffusion import path as path_lib
from transfusion_jax.objectives import denoising


def keys(seed=0, rows=8):
  return jax.random.split(jax.random.key(seed), rows)


@jax.jit
def corrupt(batch, keys):
  return denoising.corrupt(batch, keys, tiny.PATH)


def test_every_slot_has_one_level_at_most_its_cap():
  batch = tiny.mixed_batch()
  cap = np.asarray(batch.noise_cap)
  assert set(cap.ravel().tolist()) == {0.0, 0.5, 1.0}
  drawn = np.stack([np.asarray(corrupt(batch, keys(s)).t) for s in range(100)])
  assert (drawn[:, cap == 0] == 0).all()
  assert drawn[:, cap == 0.5].min() >= 0.001 - 1e-7
  assert 0.45 < drawn[:, cap == 0.5].max() <= 0.5
  assert drawn[:, cap == 1.0].max() > 0.9  # caption first is never capped
  pairs = np.corrcoef(drawn[:, 1, 0], drawn[:, 1, 1])  # two images of one row
  assert abs(pairs[0, 1]) < 0.4
  assert (drawn[:, 1, 0] != drawn[:, 1, 1]).mean() > 0.9


def test_clean_context_stays_clean_and_the_rest_follows_the_path():
  batch = tiny.mixed_batch()
  noised = corrupt(batch, keys())
  clean = np.asarray(batch.noise_cap) == 0
  images = np.asarray(batch.images)
  np.testing.assert_array_equal(np.asarray(noised.x)[clean], images[clean])
  again = tiny.PATH.corrupt(batch.images, noised.epsilon, noised.t)
  np.testing.assert_allclose(noised.x, again.x, atol=1e-6)
  noisy = np.asarray(noised.x)[~clean] - images[~clean]
  assert np.abs(noisy).max((1, 2, 3)).min() > 1e-3


def test_the_noise_is_standard_normal_and_alike_for_no_two_images():
  batch = tiny.mixed_batch()
  epsilon = np.stack([np.asarray(corrupt(batch, keys(s)).epsilon) for s in range(20)])
  assert abs(epsilon.mean()) < 0.03
  assert abs(epsilon.std() - 1) < 0.03
  flat = epsilon.reshape(-1, 48)
  assert len(np.unique(flat, axis=0)) == len(flat)


def test_a_rows_noise_does_not_depend_on_its_batch():
  batch = tiny.mixed_batch()
  whole = corrupt(batch, keys())
  rows = jnp.array([5, 2])
  part = corrupt(tiny.rows_of(batch, rows), keys()[rows])
  for a, b in zip(jax.tree.leaves(part), jax.tree.leaves(whole), strict=True):
    np.testing.assert_array_equal(a, np.asarray(b)[[5, 2]])


@functools.partial(jax.jit, static_argnames='target')
def ratios(predicted, noised, batch, target):
  return denoising.squared_error(predicted, noised, batch, target)


@pytest.mark.parametrize('target', ['epsilon', 'v', 'x0'])
def test_the_error_is_zero_for_the_target_and_for_no_other(target):
  batch = tiny.mixed_batch()
  noised = corrupt(batch, keys())
  for name in ('epsilon', 'v', 'x0'):
    found = float(
      ratios(getattr(noised, name), noised, batch, target)['loss_image'].sum
    )
    assert (found == 0.0) == (name == target)


def test_the_error_is_a_mean_over_pixels_summed_over_learnt_images():
  batch = tiny.mixed_batch()
  noised = corrupt(batch, keys())
  found = ratios(jnp.zeros_like(noised.x), noised, batch, 'epsilon')['loss_image']
  learnt = np.asarray(batch.image_weight) == 1
  errors = (np.asarray(noised.epsilon) ** 2).mean((-1, -2, -3))
  np.testing.assert_allclose(found.sum, errors[learnt].sum(), rtol=1e-5)
  assert float(found.count) == learnt.sum() > 0


def test_images_that_are_not_learnt_may_be_anything():
  batch = tiny.mixed_batch()
  noised = corrupt(batch, keys())
  unlearnt = (batch.image_weight == 0)[..., None, None, None]
  guess = jnp.ones_like(noised.x)
  wild = jnp.where(unlearnt, 1e9, guess)
  expected = ratios(guess, noised, batch, 'epsilon')['loss_image']
  found = ratios(wild, noised, batch, 'epsilon')['loss_image']
  np.testing.assert_array_equal(found.sum, expected.sum)


def test_buckets_hold_their_levels_and_add_up_to_the_whole():
  """Every one of the path's 1000 levels, computed as in training, under jit."""
  count = 1000
  x = jnp.ones((count, 1, 1, 1, 1))
  level = jnp.arange(1, count + 1, dtype=jnp.float32)[:, None]
  row = tiny.rows_of(tiny.mixed_batch(), jnp.zeros(count, jnp.int32))
  batch = tiny.replaced(
    row, images=x, noise_cap=jnp.ones((count, 1)), image_weight=jnp.ones((count, 1))
  )

  @jax.jit
  def both(level):
    t = level / 1000
    noised = path_lib.Noised(x=x, t=t, epsilon=x, v=x, x0=x)
    predicted = jnp.sqrt(level)[..., None, None, None] + 1.0
    return denoising.squared_error(predicted, noised, batch, 'epsilon')

  found = both(level)
  buckets = [found[f'loss_image_{j}'] for j in range(10)]
  for j, bucket in enumerate(buckets):
    inside = np.arange(100 * j + 1, 100 * (j + 1) + 1)
    assert float(bucket.count) == 100, j
    np.testing.assert_allclose(bucket.sum, inside.sum(), rtol=1e-4)
  np.testing.assert_allclose(
    sum(float(b.sum) for b in buckets), found['loss_image'].sum, rtol=1e-5
  )
