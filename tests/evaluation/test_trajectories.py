"""Trajectories: what a picture is expected to be along its denoising."""

import functools

import jax
import numpy as np
import pytest

from tests.support import tiny

PROMPTS, STEPS = ('a b', 'c'), 5


def keys():
  return jax.random.split(jax.random.key(0), len(PROMPTS))


def sampling(solver='heun', steps=STEPS):
  """Of Heun's method, which looks twice at most levels."""
  return tiny.image_sampling(solver=solver, steps=steps)


def drawn(settings):
  return tiny.writer().draw(PROMPTS, keys(), settings).astype(int)


@functools.cache
def trajectories(stages=3):
  found = tiny.writer().trajectories(PROMPTS, keys(), sampling(), stages=stages)
  assert found.shape == (len(PROMPTS), stages, tiny.SIDE, tiny.SIDE, 3)
  assert found.dtype == np.uint8
  return found.astype(int)


def off(one, other):
  return np.abs(one - other).max()


def test_the_last_stage_is_the_picture():
  whole = drawn(sampling())
  assert off(trajectories()[:, -1], whole) <= 1
  assert all(off(trajectories()[:, k], whole) > 1 for k in range(2))


def test_the_first_stage_is_what_one_step_makes_of_noise():
  assert off(trajectories()[:, 0], drawn(sampling('ddim', steps=1))) <= 1


def test_stages_are_steps_evenly_spread():
  every = trajectories(stages=STEPS)
  assert all(off(every[0, k], every[0, k + 1]) > 1 for k in range(STEPS - 1))
  assert off(trajectories(), every[:, ::2]) <= 1


def test_a_strip_does_not_depend_on_its_batch():
  alone = tiny.writer().trajectories(PROMPTS[1:], keys()[1:], sampling(), stages=3)
  assert off(trajectories()[1], alone[0]) <= 1
  assert off(trajectories()[0], alone[0]) > 1


@pytest.mark.parametrize('stages', [0, STEPS + 1])
def test_stages_that_are_no_steps_are_refused(stages):
  with pytest.raises(ValueError, match=f'expected from 1 to {STEPS} stages'):
    trajectories(stages=stages)
