"""Pictures to patches and back; the linear adapter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transfusion_jax.models import module
from transfusion_jax.models.adapters import adapter as adapter_lib
from transfusion_jax.models.adapters import linear

EMBED = 24


def adapter(patch=2, channels=3, positions=0):
  config = linear.LinearConfig(patch=patch, time_features=8, positions=positions)
  return linear.Linear(module.Rngs(0), config, channels=channels, embed=EMBED)


@pytest.mark.parametrize('patch', [1, 2, 4, 8])
@pytest.mark.parametrize('sides', [(8, 8), (8, 24), (16, 8)])
def test_unpatchify_is_the_inverse_of_patchify(patch, sides):
  x = np.random.default_rng(0).normal(size=(2, 3, *sides, 5)).astype(np.float32)
  grid = adapter_lib.grid(*sides, patch)
  cut = adapter_lib.patchify(jnp.asarray(x), patch)
  assert cut.shape == (2, 3, grid[0] * grid[1], patch * patch * 5)
  np.testing.assert_array_equal(adapter_lib.unpatchify(cut, patch, grid=grid), x)


def test_patches_come_in_raster_order_and_hold_row_column_channel():
  x = jnp.arange(4 * 6 * 2).reshape(1, 4, 6, 2).astype(jnp.float32)
  cut = np.asarray(adapter_lib.patchify(x, 2))
  for n, (row, column) in enumerate([(0, 0), (0, 2), (0, 4), (2, 0), (2, 2), (2, 4)]):
    window = np.asarray(x)[0, row : row + 2, column : column + 2]
    np.testing.assert_array_equal(cut[0, n], window.ravel())


@pytest.mark.parametrize(('patch', 'count'), [(1, 1024), (2, 256), (4, 64), (8, 16)])
def test_the_papers_patch_counts(patch, count):
  h, w = adapter_lib.grid(32, 32, patch)
  assert h * w == count


def test_sides_that_do_not_divide_are_an_error():
  with pytest.raises(ValueError, match='patch size 4, found 8 x 6'):
    adapter_lib.grid(8, 6, 4)
  with pytest.raises(ValueError, match='patch size 2, found 4 x 5'):
    adapter_lib.patchify(jnp.zeros((1, 4, 5, 3)), 2)


@pytest.mark.parametrize('patch', [1, 2])
def test_matrices_that_undo_each_other_give_the_picture_back(patch):
  made = adapter(patch)
  width = patch**2 * 3
  there = jax.random.orthogonal(jax.random.key(0), EMBED)[:width]
  made.inward.matrix[...], made.outward.matrix[...] = there, there.T
  made.time.outer.matrix[...] = jnp.zeros((EMBED, EMBED))
  x = jax.random.normal(jax.random.key(1), (2, 3, 4, 6, 3))
  t = jnp.full((2, 3), 0.3)
  hidden, skip = made.encode(x, t)
  np.testing.assert_allclose(made.decode(hidden, t, skip), x, atol=1e-5)


def test_the_noise_level_is_added_to_every_patch_of_its_picture_alone():
  made = adapter()
  x = jax.random.normal(jax.random.key(1), (1, 2, 4, 4, 3))
  first = made.encode(x, jnp.array([[0.3, 0.6]]))[0]
  second = made.encode(x, jnp.array([[0.3, 0.601]]))[0]
  np.testing.assert_array_equal(first[:, 0], second[:, 0])
  shift = np.asarray(second - first)[0, 1]
  assert np.abs(shift).max() > 1e-3
  np.testing.assert_allclose(shift, shift[:1].repeat(4, axis=0), atol=1e-5)


def test_all_levels_of_the_path_are_told_apart():
  made = adapter()
  embedded = np.asarray(made.time(jnp.arange(1001, dtype=jnp.float32) / 1000.0))
  gaps = np.abs(embedded[:, None] - embedded[None]).max(-1)
  gaps[np.diag_indices(1001)] = np.inf
  assert gaps.min() > 1e-3


def test_learned_positions_tell_equal_patches_apart():
  made = adapter(positions=3)
  x = jnp.ones((1, 1, 4, 6, 3))
  hidden = np.asarray(made.encode(x, jnp.zeros((1, 1)))[0])[0, 0]
  assert len(np.unique(hidden.round(6), axis=0)) == 6
  plain = np.asarray(adapter().encode(x, jnp.zeros((1, 1)))[0])[0, 0]
  assert len(np.unique(plain.round(6), axis=0)) == 1
  with pytest.raises(ValueError, match='at most 3 patches along a side, found 2 x 4'):
    made.encode(jnp.ones((1, 1, 4, 8, 3)), jnp.zeros((1, 1)))


def test_the_prediction_starts_at_zero():
  made = adapter()
  hidden = jax.random.normal(jax.random.key(0), (1, 1, 4, EMBED))
  assert not np.asarray(made.decode(hidden, jnp.zeros((1, 1)), (2, 2))).any()


def test_the_type_of_the_input_is_kept():
  x = jnp.ones((1, 1, 4, 4, 3), jnp.bfloat16)
  hidden, skip = adapter(positions=2).encode(x, jnp.zeros((1, 1)))
  assert hidden.dtype == jnp.bfloat16
  assert adapter().decode(hidden, jnp.zeros((1, 1)), skip).dtype == jnp.bfloat16
