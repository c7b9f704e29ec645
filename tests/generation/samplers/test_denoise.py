"""Writing pictures: equals full forward passes, guided by the layout of training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.diffusion import times
from transfusion_jax.generation.samplers import denoise

STEPS = 4
CAPTIONS = ('a b c', 'd')


@functools.partial(jax.jit, static_argnames=('drawing',))
def draw(model, session, null, keys, anchor, drawing):
  return denoise.draw(model, session, null, keys, anchor, drawing)


def write(captions, sampling, keys, anchor=None, begin=1.0):
  """The latents of a picture behind every caption."""
  writer = tiny.writer()
  prompts = [tiny.LAYOUT.picture_prompt(words) for words in captions]
  session = writer.read(prompts, room=tiny.PATCHES)
  null = writer.read([tiny.LAYOUT.null()] * len(captions), room=tiny.PATCHES)
  drawing = denoise.Drawing((4, 4, 3), tiny.PATH, 'epsilon', sampling, begin)
  return draw(tiny.model(), session, null, keys, anchor, drawing)


def keys(count=2):
  return jax.random.split(jax.random.key(3), count)


def sampling(guidance, solver='ddim', **changes):
  return tiny.image_sampling(
    guidance=guidance, solver=solver, **{'steps': STEPS, **changes}
  )


def predicted_noise(segments, x, t):
  """By a full forward pass over the document that ends in the picture."""
  whole = tiny.alone([tiny.prompt(*segments, tiny.image(0))])
  images = whole.images.at[0, 0].set(jnp.asarray(x))
  levels = jnp.zeros((8, tiny.SLOTS)).at[0, 0].set(float(t))
  return np.asarray(tiny.forward(tiny.model(), whole, images, levels)[1])[0, 0]


@pytest.mark.parametrize('guidance', [1.0, 0.0, 3.0])
def test_ddim_equals_full_forwards_under_guidance(guidance):
  images = write(CAPTIONS, sampling(guidance), keys())
  for row, caption in enumerate(CAPTIONS):
    start = jax.random.split(keys()[row])[0]
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
  pictures = [write(CAPTIONS, sampling(g), keys()) for g in (1.0, 0.0, 3.0)]
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


def test_ddpm_pictures_do_not_depend_on_their_batch():
  together = write(CAPTIONS, sampling(3.0, 'ddpm'), keys())
  alone = write(CAPTIONS[1:], sampling(3.0, 'ddpm'), keys()[1:])
  np.testing.assert_allclose(together[1], alone[0], atol=1e-4)
  assert np.abs(together).max() <= 2.0 + 1e-5
  other = write(CAPTIONS, sampling(3.0, 'ddpm'), keys()[::-1])
  assert not np.allclose(together[0], other[0], atol=0.05)


@pytest.mark.parametrize('solver', ['ddim', 'heun'])
def test_an_interval_guides_where_it_says_and_nowhere_else(solver):
  """The whole interval is guidance throughout; an empty one is none."""
  always = write(CAPTIONS, sampling(3.0, solver), keys())
  # 0.9999 excludes no level below 1 but takes the path with a choice.
  most = write(CAPTIONS, sampling(3.0, solver, guidance_to=1e-4), keys())
  np.testing.assert_allclose(most, always, atol=1e-4)
  never = write(CAPTIONS, sampling(1.0, solver), keys())
  empty = sampling(3.0, solver, guidance_from=0.5, guidance_to=0.5)
  np.testing.assert_allclose(write(CAPTIONS, empty, keys()), never, atol=1e-5)
  half = write(CAPTIONS, sampling(3.0, solver, guidance_from=0.6), keys())
  assert not np.allclose(half, always, atol=1e-2)
  assert not np.allclose(half, never, atol=1e-2)


def test_known_latents_stay_and_the_rest_fits_them():
  given = jax.random.normal(jax.random.key(9), (2, 4, 4, 3))
  known = jnp.zeros((2, 4, 4), bool).at[:, :, :2].set(True)
  anchor = denoise.Anchor(given, known)
  found = np.asarray(write(CAPTIONS, sampling(2.0), keys(), anchor))
  np.testing.assert_array_equal(found[:, :, :2], given[:, :, :2])
  free = np.asarray(write(CAPTIONS, sampling(2.0), keys()))
  assert not np.allclose(found[:, :, 2:], free[:, :, 2:], atol=1e-3)  # it was seen
  nothing = denoise.Anchor(given, jnp.zeros((2, 4, 4), bool))
  np.testing.assert_allclose(
    write(CAPTIONS, sampling(2.0), keys(), nothing), free, atol=1e-5
  )


def test_variations_are_nearer_the_lower_they_begin():
  given = jax.random.normal(jax.random.key(9), (2, 4, 4, 3))
  anchor = denoise.Anchor(given, jnp.zeros((2, 4, 4), bool))
  off = [
    float(jnp.abs(write(CAPTIONS, sampling(1.0), keys(), anchor, b) - given).mean())
    for b in (0.02, 0.3, 0.9)
  ]
  assert off[0] < 0.2 < off[2]
  assert off[0] < off[1] < off[2]


def test_thresholds_bound_the_latents():
  for percentile in (0.0, 90.0):
    settings = sampling(3.0, clip=0.5, percentile=percentile)
    assert np.abs(write(CAPTIONS, settings, keys())).max() <= 0.5 + 1e-5


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('guidance_to', -0.1),
    ('guidance_from', 1.5),
    ('rescale', 2.0),
    ('percentile', 101.0),
  ],
)
def test_settings_that_mean_nothing_are_refused(field, value):
  with pytest.raises(ValueError, match=f'expected sampling.{field} from'):
    sampling(2.0, **{field: value})
