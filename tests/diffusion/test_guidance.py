"""Classifier-free guidance."""

import jax
import numpy as np

from transfusion_jax.diffusion import guidance

CONDITIONAL, UNCONDITIONAL = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))


def test_one_is_conditional_and_zero_unconditional():
  np.testing.assert_allclose(
    guidance.guide(CONDITIONAL, UNCONDITIONAL, 1.0, rescale=0.0), CONDITIONAL, atol=1e-6
  )
  np.testing.assert_array_equal(
    guidance.guide(CONDITIONAL, UNCONDITIONAL, 0.0, rescale=0.0), UNCONDITIONAL
  )


def test_the_scale_moves_away_from_the_unconditional():
  found = guidance.guide(CONDITIONAL, UNCONDITIONAL, 3.0, rescale=0.0)
  expected = 3.0 * np.asarray(CONDITIONAL) - 2.0 * np.asarray(UNCONDITIONAL)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_rescaling_brings_back_the_deviation_of_each_picture():
  plain = np.asarray(guidance.guide(CONDITIONAL, UNCONDITIONAL, 5.0, rescale=0.0))
  found = np.asarray(guidance.guide(CONDITIONAL, UNCONDITIONAL, 5.0, rescale=1.0))
  half = np.asarray(guidance.guide(CONDITIONAL, UNCONDITIONAL, 5.0, rescale=0.5))
  for k in range(3):
    np.testing.assert_allclose(found[k].std(), np.std(CONDITIONAL[k]), rtol=1e-5)
    assert plain[k].std() > 2 * found[k].std()
  np.testing.assert_allclose(half, (plain + found) / 2, atol=1e-5)
