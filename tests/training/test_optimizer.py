"""AdamW: the schedule, the clip, and decay on matrices only."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support import tiny
from transfusion_jax.core import tree
from transfusion_jax.training import optimizer


def test_the_papers_schedule():
  rate = optimizer.schedule(tiny.PAPERS_OPTIMIZER, 250_000)
  assert float(rate(2000)) == pytest.approx(1.5e-4, rel=1e-5)
  assert float(rate(4000)) == pytest.approx(3e-4, rel=1e-5)
  middle = (4000 + 250_000) // 2
  assert float(rate(middle)) == pytest.approx((3e-4 + 1.5e-5) / 2, rel=1e-3)
  assert float(rate(250_000)) == pytest.approx(1.5e-5, rel=1e-4)
  assert float(rate(300_000)) == pytest.approx(1.5e-5, rel=1e-4)


@pytest.mark.parametrize('steps', [1, 2, 3000])
def test_runs_shorter_than_the_warm_up_have_a_schedule(steps):
  rate = optimizer.schedule(tiny.PAPERS_OPTIMIZER, steps)
  rates = [float(rate(k)) for k in range(min(steps, 5))]
  assert np.isfinite(rates).all()
  assert max(rates) <= 3e-4 + 1e-9
  assert float(rate(steps)) == pytest.approx(1.5e-5, rel=1e-3)


def test_no_warm_up_begins_at_the_peak():
  config = dataclasses.replace(tiny.PAPERS_OPTIMIZER, warmup_steps=0)
  assert float(optimizer.schedule(config, 100)(0)) == pytest.approx(3e-4, rel=1e-6)


def updated(config, gradient, params, names):
  """Parameters after a step, and the first moments."""
  tx = optimizer.make(config, names, 1000)

  @jax.jit
  def run(gradient, params):
    with jax.numpy_dtype_promotion('standard'):
      updates, kept = tx.update(gradient, tx.init(params), params)
    return jax.tree.map(jnp.add, params, updates), kept[1][0].mu

  return run(gradient, params)


def test_matrices_decay_and_nothing_else_does():
  """With no gradient only decay moves; norms and biases stay, stacked ones too."""
  config = dataclasses.replace(tiny.PAPERS_OPTIMIZER, warmup_steps=0, learning_rate=0.1)
  plan, params = tiny.blueprint(), tiny.params()
  zeros = jax.tree.map(jnp.zeros_like, params)
  after, _ = updated(config, zeros, params, plan.axes)
  old, new = tree.flatten(params), tree.flatten(after)
  still = {path for path in old if bool((old[path] == new[path]).all())}
  assert still == {path for path in old if path[-1] in ('gain', 'bias')}
  assert any('blocks' in path for path in still)
  for path in old.keys() - still:
    np.testing.assert_allclose(new[path], old[path] * (1 - 0.1 * 0.1), rtol=1e-5)


def test_a_gradient_is_clipped_over_all_parameters_together():
  """Adam's update hides the scale of its first gradient; its first moment does not."""
  config = dataclasses.replace(tiny.PAPERS_OPTIMIZER, warmup_steps=0, weight_decay=0.0)
  names = {'a': ('embed', 'mlp'), 'b': ('norm',)}
  params = {'a': jnp.zeros((2, 2)), 'b': jnp.zeros(2)}
  gradient = {'a': jnp.full((2, 2), 30.0), 'b': jnp.full(2, 40.0)}
  _, moments = updated(config, gradient, params, names)
  norm = np.sqrt(4 * 30.0**2 + 2 * 40.0**2)
  np.testing.assert_allclose(moments['a'], 0.1 * 30 / norm, rtol=1e-5)
  np.testing.assert_allclose(moments['b'], 0.1 * 40 / norm, rtol=1e-5)
  small = jax.tree.map(lambda g: g / 1000, gradient)
  _, moments = updated(config, small, params, names)
  np.testing.assert_allclose(moments['a'], 0.003, rtol=1e-5)


REGRESSION = dataclasses.replace(
  tiny.PAPERS_OPTIMIZER, warmup_steps=5, learning_rate=0.03
)
NAMES = {'matrix': ('embed', 'mlp'), 'bias': ('mlp',)}


def regression(tx, steps=100):
  """Parameters, optimizer state and losses of a small least-squares problem."""
  keys = jax.random.split(jax.random.key(0), 3)
  x, truth = jax.random.normal(keys[0], (64, 8)), jax.random.normal(keys[1], (8, 4))
  y = x @ truth + 0.1 * jax.random.normal(keys[2], (64, 4))

  def loss(params):
    return jnp.mean(jnp.square(x @ params['matrix'] + params['bias'][None] - y))

  def advance(carry, _):
    params, kept = carry
    value, gradient = jax.value_and_grad(loss)(params)
    with jax.numpy_dtype_promotion('standard'):
      updates, kept = tx.update(gradient, kept, params)
    return (jax.tree.map(jnp.add, params, updates), kept), value

  params = {'matrix': jnp.zeros((8, 4)), 'bias': jnp.zeros(4)}
  run = jax.jit(lambda start: jax.lax.scan(advance, start, length=steps))
  (params, kept), losses = run((params, tx.init(params)))
  return params, kept, losses


def test_moments_in_float32_are_those_of_optax_to_the_bit():
  adamw = optax.adamw(
    optimizer.schedule(REGRESSION, 100),
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.1,
    mask={'matrix': True, 'bias': False},
  )
  expected = regression(optax.chain(optax.clip_by_global_norm(1.0), adamw))
  found = regression(optimizer.make(REGRESSION, NAMES, 100))
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def test_moments_in_bfloat16_follow_those_in_float32():
  """Within 2 % of what is learnt, though not to the bit; parameters stay float32."""
  config = dataclasses.replace(REGRESSION, moments='bfloat16')
  params, kept, losses = regression(optimizer.make(config, NAMES, 100))
  wanted, _, wanted_losses = regression(optimizer.make(REGRESSION, NAMES, 100))
  for leaf in jax.tree.leaves((kept[1][0].mu, kept[1][0].nu)):
    assert leaf.dtype == jnp.bfloat16
  for path, leaf in params.items():
    assert leaf.dtype == jnp.float32
    largest = float(jnp.abs(wanted[path]).max())
    np.testing.assert_allclose(leaf, wanted[path], atol=0.02 * largest)
  assert not np.array_equal(params['matrix'], wanted['matrix'])
  np.testing.assert_allclose(losses, wanted_losses, rtol=0.05, atol=0.002)
  assert float(losses[-1]) < 0.1 * float(losses[0])


@pytest.mark.parametrize('field', ['beta1', 'beta2'])
def test_moments_too_slow_for_bfloat16_are_an_error(field):
  kept = dataclasses.replace(tiny.PAPERS_OPTIMIZER, moments='bfloat16')
  assert dataclasses.replace(kept, **{field: 0.99})
  with pytest.raises(ValueError, match='set optimizer.moments=float32'):
    dataclasses.replace(kept, **{field: 0.999})
  slow = dataclasses.replace(kept, moments='float32', **{field: 0.999})
  assert slow.moments == 'float32'
