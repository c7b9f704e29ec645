"""The image loss: the same questions every time, each in its bucket."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import base
from tests.support import tiny
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.images import image_files
from transfusion_jax.evaluation import image_loss
from transfusion_jax.models import transfusion
from transfusion_jax.objectives import denoising
from transfusion_jax.runs import config

SCENES = config.build(emoji_scenes.EmojiScenesConfig, base.transfusion().data.scenes)
COUNT = 5


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('pictures')
  for number in range(COUNT):
    Image.fromarray(tiny.picture(number)).save(path / f'{number}.png')
    (path / f'{number}.txt').write_text(' '.join(tiny.WORDS[: number + 1]))
  return path


def measured(folder, *, rows=3, seed=0, **changes) -> dict[str, float]:
  form = {'caption_first': 1.0, 'caption_drop': 0.0, **changes}
  source = base.source('folder', str(folder), **form)
  section = base.evaluator('image_loss', source, documents=0, seed=seed)
  section = config.build(image_loss.ImageLossConfig, section)
  sides = {'height': tiny.SIDE, 'width': tiny.SIDE, 'smallest': 1}
  images = {**base.transfusion().data.images, **sides}
  made = image_loss.ImageLoss(
    section,
    scenes=SCENES,
    pictures=image_files.ImagesConfig(**images),
    image_slots=tiny.SLOTS,
    rows=rows,
  )
  return dict(made(tiny.writer()))


def test_it_is_the_same_every_time_and_whatever_the_rows(folder):
  first = measured(folder)
  assert first == measured(folder)
  assert first == pytest.approx(measured(folder, rows=1), rel=1e-5)
  assert first['loss_image'] != measured(folder, seed=1)['loss_image']


def test_all_buckets_count_alike(folder):
  found = measured(folder)
  buckets = [found[f'loss_image_{j}'] for j in range(denoising.BUCKETS)]
  assert found['loss_image'] == pytest.approx(np.mean(buckets))
  assert (found['pictures'], found['left_out']) == (COUNT, 0)


def test_levels_above_the_cap_are_left_out(folder):
  found = measured(folder, caption_first=0.0, noise_cap=0.5)
  assert 'loss_image_4' in found
  assert 'loss_image_5' not in found


class Looking(transfusion.Transfusion):
  """Shows what it is asked, and answers with zeros."""

  def __init__(self, look):
    self.look = look

  def __call__(self, batch, noised, t):
    self.look(batch, noised, t)
    hidden = jnp.zeros((*batch.tokens.shape, 1))
    return transfusion.Prediction(hidden, jnp.zeros(noised.shape))


def test_levels_lie_in_their_bucket_and_are_those_of_training():
  batch = tiny.mixed_batch()
  number = jnp.arange(batch.noise_cap.size).reshape(batch.noise_cap.shape)
  seen = []

  def look(batch, x, t):
    seen.append(np.asarray(jnp.where(batch.image_weight > 0, t, jnp.nan)))

  model = Looking(look)
  for bucket in range(denoising.BUCKETS):
    image_loss.bucket_loss(
      model, batch, number, 0, jnp.int32(bucket), tiny.PATH, 'epsilon'
    )
    levels = seen[-1][np.isfinite(seen[-1])] * 1000
    assert (levels > bucket * 100 + 0.5).mean() == 1
    assert (levels < (bucket + 1) * 100 + 0.5).all()
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
  assert len(np.unique(levels)) > levels.size / 2


def test_it_is_the_loss_of_training_at_those_levels():
  """With one picture the ratio is the training loss of that very noise."""
  batch = tiny.batch([[tiny.document(tiny.text('a b'), tiny.image(1))]])
  number = jnp.zeros(batch.noise_cap.shape, jnp.int32)
  kept = {}

  model = Looking(lambda batch, x, t: kept.update(x=x, t=t))
  ratio = image_loss.bucket_loss(
    model, batch, number, 7, jnp.int32(3), tiny.PATH, 'epsilon'
  )
  alpha, sigma = tiny.PATH.alpha(kept['t'])[0, 0], tiny.PATH.sigma(kept['t'])[0, 0]
  epsilon = (kept['x'][0, 0] - alpha * batch.images[0, 0]) / sigma
  assert float(ratio.count) == 1
  assert float(ratio.sum) == pytest.approx(float(jnp.mean(epsilon**2)), rel=1e-4)


def test_a_source_without_pictures_is_refused(folder):
  source = base.source('folder', str(folder), form='text')
  with pytest.raises(ValueError, match='with pictures'):
    config.build(image_loss.ImageLossConfig, base.evaluator('image_loss', source))
