"""Noise levels: the cap is respected, and every level below it is equally likely."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transfusion_jax.diffusion import times


def draw(cap, count, steps=1000, seed=0):
  caps = jnp.full((count,), cap, jnp.float32)
  return np.asarray(times.draw(jax.random.key(seed), caps, steps=steps))


@pytest.mark.parametrize('cap', [0.5, 1.0, 0.001])
def test_levels_are_multiples_between_one_step_and_the_cap(cap):
  levels = draw(cap, 20_000) * 1000
  np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
  assert levels.min() >= 0.999
  assert levels.max() <= cap * 1000 + 1e-3


def test_every_level_up_to_the_cap_is_equally_likely():
  count, steps = 40_000, 20
  for cap, highest in ((1.0, 20), (0.5, 10)):
    drawn = np.bincount(
      np.rint(draw(cap, count, steps) * steps).astype(int), minlength=21
    )
    assert drawn[0] == 0
    assert drawn[highest + 1 :].sum() == 0
    expected = count / highest
    assert np.abs(drawn[1 : highest + 1] - expected).max() < 5 * np.sqrt(expected)


def test_a_cap_of_zero_stays_clean_beside_others():
  caps = jnp.tile(jnp.array([0.0, 0.5, 1.0]), 2000)
  levels = np.asarray(times.draw(jax.random.key(0), caps, steps=1000)).reshape(-1, 3)
  assert (levels[:, 0] == 0).all()
  assert 0.49 < levels[:, 1].max() <= 0.5
  assert levels[:, 2].max() > 0.99


def test_strided_levels_walk_evenly_from_one_to_zero():
  np.testing.assert_allclose(
    times.strided(250, steps=1000), np.arange(1000, -1, -4) / 1000, atol=1e-7
  )
  for count in (1, 3, 7, 999, 1000):
    levels = times.strided(count, steps=1000)
    assert len(levels) == count + 1
    assert (levels[0], levels[-1]) == (1, 0)
    assert (np.diff(levels) < 0).all()
    gaps = -np.diff(np.rint(levels * 1000))
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize('count', [0, 1001])
def test_too_many_or_too_few_sampling_steps_are_an_error(count):
  with pytest.raises(ValueError, match='between 1 and 1000 sampling steps'):
    times.strided(count, steps=1000)
