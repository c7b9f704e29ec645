"""The adversarial terms: whom each of them moves, and how the first is balanced."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.support import tiny
from transfusion_jax.models import module
from transfusion_jax.models.codecs import autoencoder_training, discriminator
from transfusion_jax.objectives import adversarial

OPPONENT = discriminator.DiscriminatorConfig(channels=4, layers=1, groups=2)


@functools.cache
def built():
  layout = tiny.autoencoder_config()
  plan = module.blueprint(
    lambda rngs: autoencoder_training.Judged(
      rngs, layout, opponent=OPPONENT, lpips=False
    )
  )
  random = np.random.default_rng(0)
  return plan.definition, jax.tree.map(
    lambda leaf: jnp.asarray(0.3 * random.normal(size=leaf.shape), jnp.float32),
    plan.shapes,
  )


def pictures(seed=0, count=3):
  return jax.random.uniform(jax.random.key(seed), (count, 8, 8, 3), minval=-1.0)


def length(tree):
  return np.sqrt(sum(float(jnp.sum(x * x)) for x in jax.tree.leaves(tree)))


def test_realism_moves_the_picture_and_doubt_the_judge():
  definition, params = built()
  judge = definition.bind(params).discriminator
  x, y = pictures(), pictures(1)

  @functools.partial(jax.jit, static_argnums=0)
  def slopes(term, judge, y):
    return jax.grad(lambda *both: jnp.sum(term(*both)), argnums=(0, 1))(judge, y)

  of_judge, of_picture = slopes(adversarial.realism, judge, y)
  assert length(of_judge) == 0 < length(of_picture)
  doubt = lambda judge, y: adversarial.doubt(judge, x, y)  # noqa: E731
  of_judge, of_picture = slopes(doubt, judge, y)
  assert length(of_judge) > 0 == length(of_picture)


def test_balance_is_the_ratio_of_gradients_at_the_last_layer():
  """Of the whole model's gradient, one picture after the other."""
  definition, params = built()
  x, z = pictures(), jax.random.normal(jax.random.key(2), (3, 2, 2, 3))
  likeness = lambda x, y: jnp.mean(jnp.square(x - y), axis=(1, 2, 3))  # noqa: E731
  judge = definition.bind(params).discriminator
  realism = functools.partial(adversarial.realism, judge)

  @jax.jit
  def found(params):
    decoder = definition.bind(params).decoder
    features = decoder.features(z)
    return adversarial.balance(
      functools.partial(likeness, x),
      realism,
      decoder.pictures(features),
      functools.partial(decoder.gradient_of_pictures, features),
    )

  @jax.jit
  def kernels(params, x, z):
    def gradient(term):
      return jax.grad(lambda params: jnp.sum(term(definition.bind(params).decoder(z))))(
        params
      )['decoder']['exit']['kernel']

    return gradient(functools.partial(likeness, x)), gradient(realism)

  wanted = []
  for row in range(3):
    mine = slice(row, row + 1)
    alike, real = (length(each) for each in kernels(params, x[mine], z[mine]))
    wanted.append(alike / (real + 1e-4))
  np.testing.assert_allclose(found(params), wanted, rtol=1e-4)
  assert length(jax.jit(jax.grad(lambda p: jnp.sum(found(p))))(params)) == 0


def test_balance_is_bounded():
  y = pictures()
  one = lambda y: jnp.sum(y, axis=(1, 2, 3))  # noqa: E731
  none = lambda y: 0.0 * one(y)  # noqa: E731
  same = lambda gradient: gradient  # noqa: E731
  strong = lambda y: 1e3 * one(y)  # noqa: E731
  np.testing.assert_array_equal(adversarial.balance(none, one, y, same), 0.0)
  np.testing.assert_array_equal(adversarial.balance(strong, none, y, same), 1e4)
