"""Classifier-free guidance."""

import jax
import numpy as np

from transfusion_jax.diffusion import guidance

CONDITIONAL, UNCONDITIONAL = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))


def test_one_is_conditional_and_zero_unconditional():
  np.testing.assert_allclose(
    guidance.guide(CONDITIONAL, UNCONDITIONAL, 1.0), CONDITIONAL, atol=1e-6
  )
  np.testing.assert_array_equal(
    guidance.guide(CONDITIONAL, UNCONDITIONAL, 0.0), UNCONDITIONAL
  )


def test_the_scale_moves_away_from_the_unconditional():
  found = guidance.guide(CONDITIONAL, UNCONDITIONAL, 3.0)
  expected = 3.0 * np.asarray(CONDITIONAL) - 2.0 * np.asarray(UNCONDITIONAL)
  np.testing.assert_allclose(found, expected, atol=1e-5)
