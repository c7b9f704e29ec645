"""The objective of mixed pretraining, through the whole model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.compiling import flops
from transfusion_jax.core import tree

STEP = jnp.zeros((), jnp.int32)


def keys(seed=0, rows=8):
  return jax.random.split(jax.random.key(seed), rows)


@jax.jit
def measure(params, batch, keys, normalizers):
  """The loss and the gradient of all parameters."""

  def total(params):
    model = tiny.blueprint().definition.bind(params)
    loss = tiny.OBJECTIVE(model, batch, keys, normalizers)
    return loss.total, loss

  gradient, loss = jax.grad(total, has_aux=True)(params)
  return loss, gradient


def evaluate(batch, params=None, seed=0):
  params = tiny.params() if params is None else params
  return measure(params, batch, keys(seed), tiny.OBJECTIVE.normalizers(batch, STEP))


def largest(gradient):
  return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))


def test_the_loss_is_the_text_mean_plus_five_times_the_image_mean():
  loss, _ = evaluate(tiny.mixed_batch())
  text, images = loss.metrics['loss_text'].value, loss.metrics['loss_image'].value
  np.testing.assert_allclose(loss.total, text + 5.0 * images, rtol=1e-5)
  buckets = [loss.metrics[f'loss_image_{j}'] for j in range(10)]
  whole = loss.metrics['loss_image']
  np.testing.assert_allclose(sum(float(b.sum) for b in buckets), whole.sum, rtol=1e-5)
  assert sum(float(b.count) for b in buckets) == float(whole.count)


def test_what_carries_no_weight_changes_nothing():
  batch = tiny.mixed_batch()
  unread = (batch.slot >= 0) | (batch.end == batch.start)
  shown = np.zeros(batch.noise_cap.shape, bool)
  for row, patch in zip(*np.nonzero(np.asarray(batch.slot) >= 0), strict=True):
    shown[row, int(batch.slot[row, patch]) // tiny.PATCHES] = True
  other = tiny.replaced(
    batch,
    tokens=jnp.where(unread, 5, batch.tokens),
    targets=jnp.where(batch.weight == 0, 7, batch.targets),
    images=jnp.where(shown[..., None, None, None], batch.images, 50.0),
  )
  (old, old_gradient), (new, new_gradient) = evaluate(batch), evaluate(other)
  np.testing.assert_array_equal(old.total, new.total)
  for a, b in zip(
    jax.tree.leaves(old_gradient), jax.tree.leaves(new_gradient), strict=True
  ):
    np.testing.assert_array_equal(a, b)


def test_every_parameter_is_learnt_from_a_mixed_batch():
  _, gradient = evaluate(tiny.mixed_batch())
  for path, leaf in tree.flatten(gradient).items():
    assert bool(jnp.isfinite(leaf).all()), path
    assert float(jnp.abs(leaf).max()) > 0, path


def test_a_batch_without_images_leaves_the_adapter_alone():
  a = tiny.varied()[0]
  loss, gradient = evaluate(tiny.batch([[a, a]] * 8))
  assert float(loss.metrics['loss_image'].value) == 0.0
  np.testing.assert_allclose(loss.total, loss.metrics['loss_text'].value, rtol=1e-6)
  assert np.isfinite(largest(gradient))
  assert largest(gradient['adapter']) == 0.0
  assert largest(gradient['head']) > 0.0


def text_alone(slots):
  a = tiny.varied()[0]
  return tiny.batch([[a, a]] * 8, slots=slots)


def test_without_image_slots_the_loss_is_that_of_empty_ones():
  loss, gradient = evaluate(text_alone(slots=0))
  expected, expected_gradient = evaluate(text_alone(slots=2))
  np.testing.assert_allclose(loss.total, expected.total, rtol=1e-6)
  assert largest(gradient['adapter']) == 0.0
  for a, b in zip(
    jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize('adapter', ['linear', 'unet'])
def test_without_image_slots_the_step_has_the_operations_of_a_text_model(adapter):
  plan, batch = tiny.blueprint(adapter), text_alone(slots=0)

  def total(params, batch, keys):
    model = plan.definition.bind(params)
    normalizers = tiny.OBJECTIVE.normalizers(batch, STEP)
    return tiny.OBJECTIVE(model, batch, keys, normalizers).total

  found = flops.count(jax.grad(total), plan.shapes, batch, keys())
  sizes = {
    path: leaf.size
    for path, leaf in tree.flatten(plan.shapes).items()
    if path[0] in ('transformer', 'head') and path[-1] != 'gain'
  }
  (b, t), heads, head_dim, depth = batch.tokens.shape, 2, 8, 2
  attention = 2 * 2 * b * heads * t * t * head_dim * depth
  products = 2 * b * t * sum(sizes.values())
  again = 2 * b * t * sizes['head', 'matrix']  # the logits, in the backward pass
  assert found == 3 * (products + attention) + again


def test_a_batch_without_learnt_text_leaves_the_head_alone():
  batch = tiny.mixed_batch()
  loss, gradient = evaluate(tiny.replaced(batch, weight=jnp.zeros_like(batch.weight)))
  assert float(loss.metrics['loss_text'].value) == 0.0
  assert np.isfinite(largest(gradient))
  assert largest(gradient['head']) == 0.0
  assert largest(gradient['adapter']) > 0.0


def test_an_empty_batch_is_zero():
  loss, gradient = evaluate(tiny.batch([[]] * 8))
  assert float(loss.total) == 0.0
  assert largest(gradient) == 0.0


def test_zero_heads_give_the_losses_of_knowing_nothing():
  params = tree.flatten(tiny.params())
  for path in (
    ('head', 'matrix'),
    ('adapter', 'outward', 'matrix'),
    ('adapter', 'outward', 'bias'),
  ):
    params[path] = jnp.zeros_like(params[path])
  params = tree.nest(params)
  images = []
  for seed in range(8):
    loss, _ = evaluate(tiny.mixed_batch(), params, seed)
    np.testing.assert_allclose(
      loss.metrics['loss_text'].value, np.log(tiny.USED), rtol=1e-5
    )
    images.append(float(loss.metrics['loss_image'].value))
  learnt = float(tiny.mixed_batch().image_weight.sum()) * 48 * 8
  assert abs(np.mean(images) - 1.0) < 5 * np.sqrt(2 / learnt)


def test_parts_add_up_to_the_whole():
  parts = [[0, 1, 2, 3], [7, 6, 5, 4]]
  batch = tiny.mixed_batch()
  normalizers = tiny.OBJECTIVE.normalizers(batch, STEP)
  whole, gradient = evaluate(batch)
  found = [
    measure(
      tiny.params(),
      tiny.rows_of(batch, jnp.array(p)),
      keys()[jnp.array(p)],
      normalizers,
    )
    for p in parts
  ]
  np.testing.assert_allclose(
    sum(float(f[0].total) for f in found), whole.total, rtol=1e-5
  )
  added = jax.tree.map(lambda *leaves: sum(leaves), *[f[1] for f in found])
  for a, b in zip(jax.tree.leaves(added), jax.tree.leaves(gradient), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
  counts = sum(float(f[0].metrics['loss_text'].count) for f in found)
  assert counts == float(whole.metrics['loss_text'].count)


def test_padding_and_text_rows_leave_the_image_loss_as_it_is():
  """Spec, section 14.9: per-modality means ignore what is added of the other."""
  a, b = tiny.varied()[:2]
  few = tiny.batch([[b]] * 2 + [[]] * 6)
  many = tiny.batch([[b]] * 2 + [[a]] * 6)
  first, second = evaluate(few)[0].metrics, evaluate(many)[0].metrics
  np.testing.assert_allclose(
    first['loss_image'].value, second['loss_image'].value, rtol=1e-5
  )
