"""The U-Net adapter: shapes, what depends on what, and its size."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transfusion_jax.core import axes, tree
from transfusion_jax.models import module
from transfusion_jax.models.adapters import unet

CHANNELS, EMBED = 3, 24
ZERO = {'conv_out', 'out', 'exit'}  # parts that start at zero


def config(levels=2, **changes):
  values = {
    'widths': (8, 16, 16, 16)[:levels],
    'blocks': 1,
    'groups': 4,
    'head_dim': 8,
    'time_features': 8,
  }
  return unet.UNetConfig(**{**values, **changes})


@functools.cache
def adapter(levels=2, **changes):
  """An adapter whose every parameter counts, those that start at zero included."""
  plan, random = _plan(config(levels, **changes)), np.random.default_rng(0)
  params = jax.tree.map(
    # Numbers from NumPy need no compilation.
    lambda leaf: jnp.asarray(0.3 * random.normal(size=leaf.shape), jnp.float32),
    plan.shapes,
  )
  return plan.definition.bind(params)


@functools.cache
def fresh():
  """An adapter whose blocks are their shortcuts, as at the start."""
  plan, params = _plan(config(2)), {}
  for path, leaf in tree.flatten(module.split(adapter(2))[1]).items():
    params[path] = jnp.zeros_like(leaf) if ZERO & set(path) else leaf
  return plan.definition.bind(tree.nest(params))


def _plan(settings, **changes):
  return module.blueprint(
    lambda rngs: unet.UNet(rngs, settings, channels=CHANNELS, embed=EMBED, **changes)
  )


def example(side=(4, 4), images=1, rows=1):
  """Noised latents and their levels."""
  x = jax.random.normal(jax.random.key(1), (rows, images, *side, CHANNELS))
  return x, jnp.linspace(0.1, 0.9, rows * images).reshape(rows, images)


@jax.jit
def encode(made, x, t):
  return made.encode(x, t)


@jax.jit
def decode(made, hidden, t, skip):
  return made.decode(hidden, t, skip)


@jax.jit
def around(made, x, t):
  """The adapter around a transformer that does nothing."""
  patches, skip = made.encode(x, t)
  return made.decode(patches, t, skip)


@pytest.mark.parametrize(
  ('levels', 'patch', 'side'),
  [(1, 1, (4, 4)), (2, 2, (4, 8)), (3, 4, (8, 4)), (4, 8, (8, 16))],
)
def test_shapes(levels, patch, side):
  settings = config(levels)
  assert settings.patch == patch

  def trace(key, x, t):
    made = unet.UNet(module.Rngs(key), settings, channels=CHANNELS, embed=EMBED)
    patches, skip = made.encode(x, t)
    return patches, made.decode(patches, t, skip)

  x = jax.ShapeDtypeStruct((2, 3, *side, CHANNELS), jnp.bfloat16)
  t = jax.ShapeDtypeStruct((2, 3), jnp.float32)
  patches, y = jax.eval_shape(trace, jax.random.key(0), x, t)
  assert patches.shape == (2, 3, side[0] * side[1] // patch**2, EMBED)
  assert y.shape == x.shape
  assert patches.dtype == y.dtype == jnp.bfloat16


def test_patches_stand_in_raster_order():
  x, t = example((4, 8))
  before, _ = encode(fresh(), x, t)
  # The first convolution reaches one pixel further, the second two to the right and
  # below: the pixel is seen by the patch it is in and, at their edge, by those before.
  for (row, column), patches in {
    (0, 0): [0],
    (0, 4): [1, 2],
    (0, 7): [2, 3],
    (2, 0): [0, 4],
    (3, 7): [2, 3, 6, 7],
  }.items():
    after, _ = encode(fresh(), x.at[0, 0, row, column].add(1.0), t)
    changed = jnp.any(before != after, axis=-1)[0, 0]
    assert jnp.flatnonzero(changed).tolist() == patches


def test_the_grid_must_divide():
  made = adapter(2)
  with pytest.raises(ValueError, match=r'divide by the patch size 2, found 4 x 5'):
    made.encode(*example((4, 5)))


@pytest.mark.parametrize('changes', [{'groups': 3}, {'head_dim': 16}])
def test_widths_must_divide(changes):
  with pytest.raises(ValueError, match='U-Net widths that divide .* found 8'):
    adapter(2, **changes)


def test_every_pixel_reaches_every_patch_and_back():
  made = adapter(2)
  x, t = example((4, 4))
  patches, skip = encode(made, x, t)
  inward = jax.jit(jax.jacrev(lambda x: jnp.sum(made.encode(x, t)[0], axis=-1)))(x)
  assert jnp.all(jnp.any(inward[0, 0, :, 0, 0] != 0, axis=-1))
  outward = jax.jacfwd(lambda y: jnp.sum(made.decode(y, t, skip), axis=-1))
  outward = jax.jit(outward)(patches)
  assert jnp.all(jnp.any(outward[0, 0, :, :, 0, 0] != 0, axis=-1))


def test_every_skip_is_used():
  made = adapter(2)
  x, t = example((4, 4))
  patches, skip = encode(made, x, t)
  assert len(skip) == 2 * (1 + 1)
  pull = jax.jit(jax.grad(lambda skip: jnp.sum(made.decode(patches, t, skip) ** 2)))
  assert all(bool(jnp.any(each != 0)) for each in pull(skip))


def test_time_enters_both_halves():
  made = adapter(2)
  x, t = example((4, 4))
  patches, skip = encode(made, x, t)
  assert not np.allclose(patches, encode(made, x, t + 0.3)[0], atol=1e-3)
  again = decode(made, patches, t + 0.3, skip)
  assert not np.allclose(decode(made, patches, t, skip), again, atol=1e-3)


def test_images_do_not_see_each_other():
  made = adapter(2)
  x, t = example((4, 4), images=2, rows=2)
  together = around(made, x, t)
  changed = around(made, x.at[0, 1].add(1.0), t.at[0, 1].set(0.7))
  np.testing.assert_array_equal(together[0, 0], changed[0, 0])
  np.testing.assert_array_equal(together[1], changed[1])
  alone = around(made, x[:1, :1], t[:1, :1])
  np.testing.assert_allclose(together[:1, :1], alone, rtol=1e-4, atol=1e-4)


def test_the_prediction_starts_at_zero():
  made = jax.jit(_plan(config(1)).init)(jax.random.key(0))
  assert all(
    bool(jnp.all(leaf == 0))
    for path, leaf in tree.flatten(made).items()
    if ZERO & set(path)
  )
  assert jnp.any(made['entry']['kernel'] != 0)


def paper(widths, embed):
  """The paper's adapter, described and not allocated."""
  settings = unet.UNetConfig(
    widths=widths, blocks=2, groups=32, head_dim=128, time_features=256
  )
  return module.blueprint(
    lambda rngs: unet.UNet(rngs, settings, channels=8, embed=embed)
  )


@pytest.mark.parametrize(
  ('widths', 'embed', 'millions'),
  [
    ((512, 1152), 768, 255.2),
    ((512, 1152), 4096, 262.8),
    ((1152,), 4096, 248.4),
    ((384, 640, 1024), 4096, 268.6),
    ((384, 512, 768, 768), 4096, 274.6),
  ],
)
def test_size_at_the_papers_widths(widths, embed, millions):
  count = tree.size(paper(widths, embed).shapes) / 1e6
  assert count == pytest.approx(270, rel=0.1)
  assert count == pytest.approx(millions, abs=0.1)


def test_traces_at_the_papers_size():
  plan = paper((512, 1152), 4096)
  x = jax.ShapeDtypeStruct((1, 2, 32, 32, 8), jnp.bfloat16)
  t = jax.ShapeDtypeStruct((1, 2), jnp.float32)
  trace = lambda params, x, t: around(plan.definition.bind(params), x, t)  # noqa: E731
  assert jax.eval_shape(trace, plan.shapes, x, t).shape == x.shape


@pytest.mark.parametrize(('backend', 'kernels'), [('tpu', 5), ('xla', 0)])
def test_attention_of_the_large_resolution_is_the_backends(backend, kernels):
  settings = dataclasses.replace(config(), widths=(128, 256), head_dim=128, blocks=2)
  plan = _plan(settings, backend=backend)
  x = jax.ShapeDtypeStruct((1, 1, 32, 32, CHANNELS), jnp.bfloat16)
  t = jax.ShapeDtypeStruct((1, 1), jnp.float32)

  def trace(params, x, t):
    made = plan.definition.bind(params)
    patches, skip = made.encode(x, t)
    return made.decode(patches, t, skip)

  text = str(jax.make_jaxpr(trace)(plan.shapes, x, t))
  assert text.count('pallas_call[') == kernels


def test_every_parameter_can_be_sharded():
  plan = paper((512, 1152), 768)
  sizes = {'data': 1, 'fsdp': 2, 'tensor': 2}
  specs = jax.tree.map(
    lambda leaf, names: axes.spec(names, leaf.shape, sizes), plan.shapes, plan.axes
  )
  assert all(any(spec) for spec in _matrices(specs, plan.shapes))


def _matrices(specs, shapes):
  specs, shapes = tree.flatten(specs), tree.flatten(shapes)
  return [specs[path] for path, leaf in shapes.items() if leaf.ndim > 1]
