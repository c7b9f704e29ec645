"""Bounds on predicted data."""

import jax
import jax.numpy as jnp
import numpy as np

from transfusion_jax.diffusion import thresholds

X = 3.0 * jax.random.normal(jax.random.key(0), (3, 8, 8, 4))


def test_no_limit_leaves_data_as_it_is():
  np.testing.assert_array_equal(thresholds.bound(X, limit=0.0, percentile=99.0), X)


def test_static_thresholding_clips():
  found = thresholds.bound(X, limit=2.0, percentile=0.0)
  np.testing.assert_array_equal(found, np.clip(X, -2.0, 2.0))


def test_dynamic_thresholding_scales_a_picture_by_its_own_percentile():
  found = np.asarray(thresholds.bound(X, limit=2.0, percentile=90.0))
  for picture, bounded in zip(np.asarray(X), found, strict=True):
    top = np.percentile(np.abs(picture), 90.0)
    np.testing.assert_allclose(
      bounded, np.clip(picture, -top, top) * 2.0 / top, rtol=1e-5
    )


def test_dynamic_thresholding_leaves_data_within_the_limit():
  small = jnp.clip(X, -1.5, 1.5)
  np.testing.assert_allclose(
    thresholds.bound(small, limit=2.0, percentile=99.5), small, atol=1e-6
  )
