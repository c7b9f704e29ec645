"""Writing pictures: equals full forward passes, guided by the layout of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from transfusion_jax.diffusion import times
from transfusion_jax.generation import image

STEPS = 4
CAPTIONS = ('a b c', 'd')


def write(captions, sampling, keys, active=None):
  writer = tiny.writer()
  session = writer.read([tiny.LAYOUT.picture_prompt(words) for words in captions])
  null = writer.read([tiny.LAYOUT.null()] * len(captions))
  return image.write_image(
    tiny.model(),
    session,
    null,
    keys,
    jnp.ones(len(captions), bool) if active is None else active,
    shape=(4, 4, 3),
    path=tiny.PATH,
    target='epsilon',
    sampling=sampling,
  )


def keys(count=2):
  return jax.random.split(jax.random.key(3), count)


def sampling(guidance, solver='ddim'):
  return image.ImageSampling(solver=solver, steps=STEPS, guidance=guidance, clip=2.0)


def predicted_noise(segments, x, t):
  """By a full forward pass over the document that ends in the picture."""
  whole = tiny.alone([tiny.prompt(*segments, tiny.image(0))])
  images = whole.images.at[0, 0].set(jnp.asarray(x))
  levels = jnp.zeros((8, tiny.SLOTS)).at[0, 0].set(float(t))
  return np.asarray(tiny.forward(tiny.model(), whole, images, levels)[1])[0, 0]


@pytest.mark.parametrize('guidance', [1.0, 0.0, 3.0])
def test_ddim_equals_full_forwards_under_guidance(guidance):
  _, images = write(CAPTIONS, sampling(guidance), keys())
  for row, caption in enumerate(CAPTIONS):
    start = jax.random.fold_in(keys()[row], STEPS)
    x = np.asarray(jax.random.normal(start, (4, 4, 3)))
    levels = times.strided(STEPS, steps=1000)
    for t, s in zip(levels[:-1], levels[1:], strict=True):
      conditional = predicted_noise([tiny.text(caption)], x, t)
      unconditional = predicted_noise([], x, t)
      noise = unconditional + guidance * (conditional - unconditional)
      a, g = (
        float(tiny.PATH.alpha(jnp.asarray(t))),
        float(tiny.PATH.sigma(jnp.asarray(t))),
      )
      x0 = np.clip((x - g * noise) / a, -2.0, 2.0)
      a_s, g_s = (
        float(tiny.PATH.alpha(jnp.asarray(s))),
        float(tiny.PATH.sigma(jnp.asarray(s))),
      )
      x = a_s * x0 + g_s * (x - a * x0) / g
    np.testing.assert_allclose(images[row], x, atol=2e-3)


def test_guidance_changes_pictures():
  pictures = [
    np.asarray(write(CAPTIONS, sampling(g), keys())[1]) for g in (1.0, 0.0, 3.0)
  ]
  assert not np.allclose(pictures[0], pictures[1], atol=1e-2)
  assert not np.allclose(pictures[0], pictures[2], atol=1e-2)


def test_guidance_begins_as_training_without_a_caption_does():
  """A dropped caption leaves `BOS BOI patches EOI EOS`."""
  trained = tiny.document(tiny.image(1))
  for null in (
    tiny.LAYOUT.null(),
    tiny.LAYOUT.picture_prompt(''),
    tiny.LAYOUT.picture_prompt(' '),
  ):
    n = len(null)
    assert null.tokens.tolist() == [tiny.SPECIAL.bos, tiny.SPECIAL.boi]
    for name in ('tokens', 'position', 'end', 'slot'):
      np.testing.assert_array_equal(getattr(null, name), getattr(trained, name)[:n])
    assert trained.slot[n] == 0


def test_a_captioned_picture_begins_as_in_training():
  trained = tiny.document(tiny.text('a b c'), tiny.image(1))
  prompt = tiny.LAYOUT.picture_prompt('a b c')
  for name in ('tokens', 'position', 'end', 'slot'):
    np.testing.assert_array_equal(
      getattr(prompt, name), getattr(trained, name)[: len(prompt)]
    )
  assert trained.slot[len(prompt)] == 0


def test_the_finished_picture_is_entered_clean():
  session, images = write(CAPTIONS, sampling(3.0, 'ddpm'), keys())
  step = jnp.full((2, 1), tiny.SPECIAL.eoi, jnp.int32)
  from transfusion_jax.generation import session as session_lib

  after = jax.jit(session_lib.read_text)(
    tiny.model(), session, step, jnp.ones(2, jnp.int32)
  )
  whole = tiny.alone(
    [tiny.prompt(tiny.text(words), tiny.image(0)) for words in CAPTIONS]
  )
  rows = whole.images.at[:2, 0].set(images)
  logits, _ = tiny.forward(tiny.model(), whole, rows, jnp.zeros((8, tiny.SLOTS)))
  last = np.asarray(after.length) - 1
  expected = np.asarray(logits)[[0, 1], last]
  np.testing.assert_allclose(after.logits, expected, atol=5e-5)


def test_ddpm_pictures_do_not_depend_on_their_batch():
  _, together = write(CAPTIONS, sampling(3.0, 'ddpm'), keys())
  _, alone = write(CAPTIONS[1:], sampling(3.0, 'ddpm'), keys()[1:])
  np.testing.assert_allclose(together[1], alone[0], atol=2e-3)
  assert np.abs(together).max() <= 2.0 + 1e-5
  _, other = write(CAPTIONS, sampling(3.0, 'ddpm'), keys()[::-1])
  assert not np.allclose(together[0], other[0], atol=0.05)


def test_rows_that_are_not_active_stay():
  active = jnp.array([True, False])
  after, _ = write(CAPTIONS, sampling(1.0), keys(), active)
  assert after.length.tolist() == [5 + tiny.PATCHES, 3]
