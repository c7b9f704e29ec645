"""Drawings of held-out captions beside held-out pictures."""

import dataclasses

import numpy as np
import pytest

from tests.support import captions_of_images, tiny
from transfusion_jax.evaluation import clip_score, drawings, features, frechet, report


class Pixels:
  """Three features: the mean of every channel."""

  distance, kernel = 'frechet_pixels', 'kernel_pixels'

  def __call__(self, pictures):
    return pictures.mean(axis=(1, 2), dtype=np.float32) / 255


def red(texts, pictures):
  """A score that knows what it is asked: the red of a picture, or 0 without a text."""
  return np.array([p[..., 0].mean() * bool(t) for t, p in zip(texts, pictures)])  # noqa: B905


@pytest.fixture
def source(tmp_path, monkeypatch):
  monkeypatch.setattr(features, 'make', lambda config: Pixels())
  return tiny.source('json_lines', captions_of_images.write(tmp_path, 40))


def made(source, **changes):
  config = drawings.DrawingsConfig(
    kind='drawings',
    source=source,
    prompts=40,
    pictures=0,
    features=features.FeaturesConfig('efficientnet_lite0', ''),
    subsets=20,
    subset=15,
    clip=clip_score.ClipConfig('ViT-B-32', ''),
    shown=3,
    seed=0,
  )
  return drawings.Drawings(
    dataclasses.replace(config, **changes),
    scenes=captions_of_images.SCENES,
    pictures=captions_of_images.SIZE,
    sampling=captions_of_images.SAMPLING,
    rows=16,
  )


def test_who_draws_the_very_pictures_is_at_no_distance(source):
  parrot = captions_of_images.parrot()
  found = dict(made(source)(parrot))
  assert abs(found['frechet_pixels']) < 1e-9
  assert found['kernel_pixels'] < found['kernel_pixels_deviation']
  assert (found['drawn'], found['pictures']) == (40, 40)
  assert 'clip_score' not in found
  assert len({tuple(asked.split()[:2]) for asked in parrot.asked}) == 40


def test_both_captions_of_a_picture_are_drawn_by_lot(source):
  lengths = []
  for seed in (0, 0, 1):
    parrot = captions_of_images.parrot()
    dict(made(source, seed=seed)(parrot))
    lengths.append([len(asked.split()) for asked in parrot.asked])
  assert set(lengths[0]) == {2, 3}
  assert lengths[0] == lengths[1] != lengths[2]


def test_distances_are_those_of_the_features(source):
  """Of a model that draws noise, with other pictures than its prompts belong to."""
  evaluate = made(source, prompts=16, pictures=30, shown=16)
  found = dict(evaluate(tiny.writer()))
  gallery = found.pop('drawings')
  assert isinstance(gallery, report.Gallery)
  assert {tile.good for tile in gallery.tiles} == {None}
  trajectories = found.pop('denoising').tiles
  assert len(trajectories) == 4
  for trajectory, tile in zip(trajectories, gallery.tiles, strict=False):
    assert trajectory.text == tile.text
    last = trajectory.picture[:, -tiny.SIDE :].astype(int)
    assert np.abs(last - tile.picture).max() <= 1
  assert (found['drawn'], found['pictures']) == (16, 30)
  again = dict(evaluate(tiny.writer()))
  assert len(again.pop('drawings').tiles) == 16
  assert len(again.pop('denoising').tiles) == 4
  assert again == found
  drawn = Pixels()(np.stack([tile.picture for tile in gallery.tiles]))
  real = Pixels()(np.stack([tiny.picture(k) for k in evaluate._compared]))
  wanted = frechet.distance(frechet.gaussian(real), frechet.gaussian(drawn))
  np.testing.assert_allclose(found['frechet_pixels'], wanted, rtol=1e-6)
  assert wanted > 1e-3


def test_every_drawing_is_rated_with_its_prompt(source, monkeypatch):
  monkeypatch.setattr(clip_score, 'ClipScore', lambda config: red)
  clip = clip_score.ClipConfig('ViT-B-32', 'weights.pt')
  found = dict(made(source, clip=clip)(captions_of_images.parrot()))
  wanted = np.mean([tiny.picture(number)[..., 0].mean() for number in range(40)])
  np.testing.assert_allclose(found['clip_score'], wanted)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'prompts': 41}, 'at least 41 pictures in .*, found 40'),
    ({'pictures': 41}, 'at least 41 pictures in .*, found 40'),
    ({'prompts': 1}, 'at least 2 prompts and 2 pictures'),
    ({'subset': 1}, 'at least 1 subset of 2 pictures'),
  ],
)
def test_too_few_are_refused_before_anything_is_drawn(source, changes, message):
  with pytest.raises(ValueError, match=message):
    made(source, **changes)
