"""What the evaluator of scenes shows, of a writer that draws what it likes."""

import zlib

import jax
import numpy as np

from tests.support import tiny
from transfusion_jax.evaluation import evaluator
from transfusion_jax.evaluation.emoji import scenes
from transfusion_jax.generation import writer as writer_lib

DATA = tiny.scenes(glyphs=8, colors=6, heldout=0.2)


class Painter(writer_lib.Writer):
  """Every prompt and key has a picture; trajectories begin with others."""

  def draw(self, prompts, keys, sampling) -> np.ndarray:
    del sampling
    return np.stack([_picture(*each) for each in zip(prompts, keys, strict=True)])

  def trajectories(self, prompts, keys, sampling, *, stages) -> np.ndarray:
    drawn = self.draw(prompts, keys, sampling)
    return np.stack([*[255 - drawn] * (stages - 1), drawn], axis=1)

  def caption(self, pictures, *, limit) -> list[str]:
    return ['a panda'[:limit]] * len(pictures)


def _picture(prompt: str, key: jax.Array) -> np.ndarray:
  seed = (zlib.crc32(prompt.encode()), *np.asarray(jax.random.key_data(key)))
  return np.full(
    (DATA.size, DATA.size, 3), np.random.default_rng(seed).integers(256), np.uint8
  )


def galleries(**changes):
  config = scenes.ScenesConfig(kind='scenes', prompts=3, shown=4, seed=5)
  sampling = tiny.image_sampling(steps=4)
  data = tiny.replaced(DATA, **changes)
  measure = scenes.Scenes(config, data, sampling, rows=2)
  (outcome,) = evaluator.run({'scenes': measure}, Painter(**vars(tiny.writer())))
  return outcome.galleries


def test_strips_are_how_the_first_picture_of_every_kind_came_about():
  found = galleries()
  trajectories = found['denoising'].tiles
  firsts = [found[kind].tiles[0] for kind in ('single', 'pair', 'count', 'binding')]
  assert [trajectory.text for trajectory in trajectories] == [
    tile.text for tile in firsts
  ]
  side = DATA.size
  for trajectory, tile in zip(trajectories, firsts, strict=True):
    assert trajectory.picture.shape == (side, 4 * side + 3, 3)
    np.testing.assert_array_equal(trajectory.picture[:, -side:], tile.picture)
    np.testing.assert_array_equal(trajectory.picture[:, :side], 255 - tile.picture)
    assert (trajectory.picture[:, side] == 255).all()


def test_kinds_that_were_not_trained_on_have_no_trajectories():
  found = galleries(pair=0.0, binding=0.0)
  assert not {'pair', 'binding'} & found.keys()
  assert len(found['denoising'].tiles) == 2
