"""The step: the same numbers however its work is divided.

Plain gradient descent is used where numbers are compared: Adam's first step is the sign
of the gradient, which would blow rounding up to the learning rate.
"""

import functools
import json
import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny, tiny_step
from transfusion_jax.core import axes, sharding
from transfusion_jax.ops import attention_tpu, rope_tpu
from transfusion_jax.training import mesh as mesh_lib
from transfusion_jax.training import optimizer, state

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_losses.json'


@functools.cache
def plain_step():
  return jax.jit(tiny_step.make(ema_decay=0.5))


@functools.cache
def expected():
  return plain_step()(tiny_step.initial(tiny_step.SGD), tiny.mixed_batch())


def assert_close(found, other=None, *, rtol=1e-4, atol=1e-5, **model):
  (after, metrics), (wanted, wanted_metrics) = found, other or expected()
  assert metrics.keys() == wanted_metrics.keys()
  for name, value in wanted_metrics.items():
    np.testing.assert_allclose(metrics[name], value, rtol=rtol, err_msg=name)
  moved = 0.0
  before = jax.tree.leaves(tiny.params(**model))
  for a, b, c in zip(
    jax.tree.leaves(after.params), jax.tree.leaves(wanted.params), before, strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
    moved = max(moved, float(jnp.abs(b - c).max()))
  assert moved > 100 * atol  # there was something to be equal in


@pytest.mark.parametrize('microbatches', [2, 4])
def test_micro_batches_change_nothing(microbatches):
  """Rows hold different counts of tokens and images: a mean of means would differ."""
  assert_close(
    jax.jit(tiny_step.make(microbatches=microbatches))(
      tiny_step.initial(tiny_step.SGD), tiny.mixed_batch()
    )
  )


@pytest.mark.parametrize(
  'changes',
  [{'remat': 'full'}, {'remat': 'minimal'}, {'remat': 'save_attention', 'unroll': 2}],
)
def test_remat_and_unrolling_change_nothing(changes):
  assert_close(
    jax.jit(tiny_step.make(**changes))(
      tiny_step.initial(tiny_step.SGD), tiny.mixed_batch()
    )
  )


def on_mesh(sizes, begin, batch, **changes):
  """A step on eight devices, and the shardings of its state."""
  mesh = mesh_lib.make(mesh_lib.MeshConfig(*sizes))
  model = {k: v for k, v in changes.items() if k != 'microbatches'}
  places = state.shardings(begin, tiny.blueprint(**model).axes, tiny_step.SGD, mesh)
  rows = jax.sharding.NamedSharding(mesh, axes.BATCH_SPEC)
  run = jax.jit(
    sharding.on(mesh, tiny_step.make(**changes)),
    in_shardings=(places, rows),
    out_shardings=(places, axes.replicated(mesh)),
  )
  return run(jax.device_put(begin, places), jax.device_put(batch, rows)), places


@pytest.mark.parametrize(
  ('sizes', 'microbatches'),
  [
    ((8, 1, 1, 1), 1),
    ((2, 2, 1, 2), 2),
    ((1, 4, 1, 2), 1),
    ((2, 4, 1, 1), 1),
    ((1, 2, 4, 1), 1),
    ((1, 2, 2, 2), 2),
  ],
)
def test_eight_devices_change_nothing(sizes, microbatches):
  (after, metrics), places = on_mesh(
    sizes,
    tiny_step.initial(tiny_step.SGD),
    tiny.mixed_batch(),
    microbatches=microbatches,
  )
  assert_close((after, metrics))
  for leaf, place in zip(
    jax.tree.leaves(after.params), jax.tree.leaves(places.params), strict=True
  ):
    assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
  if sizes[3] == 2:
    gate = after.params['transformer']['blocks']['mlp']['gate']
    assert gate.addressable_shards[0].data.shape == (2, 16 // sizes[1], 12)


@pytest.mark.slow
def test_kernels_for_tpus_change_nothing(monkeypatch):
  """Interpreted: in a scan, computed again, in micro-batches, on a mesh of all axes."""
  kernels = {}
  for home, name in ((attention_tpu, 'attend'), (rope_tpu, 'rotate')):
    kernels[name] = mock.Mock(
      wraps=functools.partial(getattr(home, name), interpret=True)
    )
    monkeypatch.setattr(home, name, kernels[name])
  model = {'heads': 4, 'kv_heads': 2, 'head_dim': 64}
  batch, begin = tiny.mixed_batch(length=256), tiny_step.initial(tiny_step.SGD, **model)
  wanted = jax.jit(tiny_step.make(**model))(begin, batch)
  changes = {'attention': 'tpu', 'remat': 'minimal', 'microbatches': 2}
  found, _ = on_mesh((1, 2, 2, 2), begin, batch, **model, **changes)
  assert all(kernel.called for kernel in kernels.values())
  assert_close(found, wanted, **model)


def test_bfloat16_compute_stays_close_and_parameters_stay_float32():
  after, metrics = jax.jit(tiny_step.make(dtype='bfloat16'))(
    tiny_step.initial(tiny_step.SGD), tiny.mixed_batch()
  )
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(after.params))
  _, wanted = expected()
  for name in ('loss', 'loss_text', 'loss_image', 'grad_norm'):
    np.testing.assert_allclose(metrics[name], wanted[name], rtol=0.03, err_msg=name)


def test_one_seed_gives_the_same_bits_and_another_does_not():
  runs = []
  for seed in (0, 0, 1):
    now = tiny_step.initial(tiny_step.SGD, seed)
    for _ in range(2):
      now, metrics = plain_step()(now, tiny.mixed_batch())
    runs.append((now.params, metrics))
  same = jax.tree.map(lambda a, b: bool((a == b).all()), runs[0], runs[1])
  assert jax.tree.all(same)
  assert float(runs[0][1]['loss_image']) != float(runs[2][1]['loss_image'])


def test_every_step_draws_noise_of_its_own():
  begin = tiny_step.initial(tiny_step.SGD)
  _, first = plain_step()(begin, tiny.mixed_batch())
  later = tiny.replaced(begin, step=jnp.ones((), jnp.int32))
  _, second = plain_step()(later, tiny.mixed_batch())
  assert float(first['loss_text']) != float(second['loss_text'])
  assert int(plain_step()(later, tiny.mixed_batch())[0].step) == 2


def test_the_average_follows_its_warm_up():
  after, _ = expected()  # decay 0.5, warm-up (1 + 0) / (10 + 0) at the first step
  for old, new, ema in zip(
    *(jax.tree.leaves(t) for t in (tiny.params(), after.params, after.ema)), strict=True
  ):
    np.testing.assert_allclose(ema, 0.1 * old + 0.9 * new, rtol=1e-5, atol=1e-7)
  late = tiny.replaced(
    tiny_step.initial(tiny_step.SGD), step=jnp.array(1000, jnp.int32)
  )
  after, _ = plain_step()(late, tiny.mixed_batch())
  leaves = (tiny.params(), after.params, after.ema)
  for old, new, ema in zip(*(jax.tree.leaves(t) for t in leaves), strict=True):
    np.testing.assert_allclose(ema, 0.5 * old + 0.5 * new, rtol=1e-5, atol=1e-7)


def test_an_average_without_decay_is_the_parameters_and_the_state_may_be_donated():
  run = jax.jit(tiny_step.make(ema_decay=0.0), donate_argnums=(0,))
  now, _ = run(tiny_step.initial(tiny_step.SGD), tiny.mixed_batch())
  now, _ = run(now, tiny.mixed_batch())
  for a, b in zip(jax.tree.leaves(now.params), jax.tree.leaves(now.ema), strict=True):
    np.testing.assert_array_equal(a, b)
  assert int(now.step) == 2


def test_the_metrics_are_those_of_the_whole_batch():
  _, metrics = expected()
  total = metrics['loss_text'] + 5.0 * metrics['loss_image']
  np.testing.assert_allclose(metrics['loss'], total, rtol=1e-5)
  assert {f'loss_image_{j}' for j in range(10)} <= metrics.keys()
  assert float(metrics['grad_norm']) > 0


def losses():
  """Three steps of AdamW in float32, as the golden file holds them."""
  tx = optimizer.make(tiny.OPTIMIZER, tiny.blueprint().axes, 3)
  run, now, found = (
    jax.jit(tiny_step.make(tx, ema_decay=0.99)),
    tiny_step.initial(tx),
    [],
  )
  for _ in range(3):
    now, metrics = run(now, tiny.mixed_batch())
    names = ('loss', 'loss_text', 'loss_image', 'grad_norm')
    found.append({name: float(metrics[name]) for name in names})
  return found


@pytest.mark.usefixtures('optimized')
def test_golden_losses():
  """A change of numerics says why, and regenerates the file in the same commit.

  To regenerate: `python -m pytest tests/training/test_step.py -k golden` after deleting
  tests/golden/tiny_losses.json; the test then writes it and fails once.
  """
  found = losses()
  if not GOLDEN.exists():
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(found, indent=2) + '\n')
    pytest.fail(f'wrote {GOLDEN}; look at it and run again')
  for wanted, step_ in zip(json.loads(GOLDEN.read_text()), found, strict=True):
    assert step_ == pytest.approx(wanted, rel=1e-5)
