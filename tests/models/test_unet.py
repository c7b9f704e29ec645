"""The U-Net adapter: shapes, what depends on what, and its size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transfusion_jax.core import axes, tree
from transfusion_jax.models import module, unet

CHANNELS, EMBED = 3, 24


def config(levels=2, **changes):
  values = dict(
    widths=(8, 16, 16, 16)[:levels], blocks=1, groups=4, head_dim=8, time_features=8
  )
  return unet.UNetConfig(**{**values, **changes})


def adapter(levels=2, channels=CHANNELS, **changes):
  """An adapter whose every parameter counts, those that start at zero included."""

  @jax.jit
  def make(key):
    made = unet.UNet(
      module.Rngs(key), config(levels, **changes), channels=channels, embed=EMBED
    )
    leaves, structure = jax.tree.flatten(made)
    keys = jax.random.split(key, len(leaves))
    noisy = [
      leaf + 0.1 * jax.random.normal(each, leaf.shape)
      for leaf, each in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)

  return make(jax.random.key(0))


def example(side=(4, 4), images=1, rows=1):
  """Noised latents and their levels."""
  x = jax.random.normal(jax.random.key(1), (rows, images, *side, CHANNELS))
  return x, jnp.linspace(0.1, 0.9, rows * images).reshape(rows, images)


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
  made = adapter(2, groups=1)
  x, t = example((4, 8))
  patches, _ = made.encode(x, t)
  change = made.encode(x.at[0, 0, 2:, 6:].add(5.0), t)[0] - patches
  assert int(jnp.argmax(jnp.sum(jnp.square(change[0, 0]), axis=-1))) == 7


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
  patches, skip = made.encode(x, t)
  inward = jax.jit(jax.jacrev(lambda x: jnp.sum(made.encode(x, t)[0], axis=-1)))(x)
  assert jnp.all(jnp.any(inward[0, 0, :, 0, 0] != 0, axis=-1))
  outward = jax.jacfwd(lambda y: jnp.sum(made.decode(y, t, skip), axis=-1))
  outward = jax.jit(outward)(patches)
  assert jnp.all(jnp.any(outward[0, 0, :, :, 0, 0] != 0, axis=-1))


def test_every_skip_is_used():
  made = adapter(2)
  x, t = example((4, 4))
  patches, skip = made.encode(x, t)
  assert len(skip) == 2 * (1 + 1)
  pull = jax.jit(jax.grad(lambda skip: jnp.sum(made.decode(patches, t, skip) ** 2)))
  assert all(bool(jnp.any(each != 0)) for each in pull(skip))


def test_time_enters_both_halves():
  made = adapter(2)
  x, t = example((4, 4))
  patches, skip = made.encode(x, t)
  assert not np.allclose(patches, made.encode(x, t + 0.3)[0], atol=1e-3)
  again = made.decode(patches, t + 0.3, skip)
  assert not np.allclose(made.decode(patches, t, skip), again, atol=1e-3)


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
  made = unet.UNet(module.Rngs(0), config(2), channels=CHANNELS, embed=EMBED)
  assert jnp.all(around(made, *example()) == 0)


def paper(widths, embed):
  """The paper's adapter, described and not allocated."""
  settings = unet.UNetConfig(
    widths=widths, blocks=2, groups=32, head_dim=64, time_features=256
  )
  return module.blueprint(
    lambda rngs: unet.UNet(rngs, settings, channels=8, embed=embed)
  )


@pytest.mark.parametrize(
  ('widths', 'embed', 'millions'),
  [
    ((576, 1152), 768, 271.3),
    ((576, 1152), 4096, 279.0),
    ((1216,), 4096, 276.1),
    ((384, 768, 960), 4096, 279.4),
    ((256, 512, 768, 832), 4096, 269.2),
  ],
)
def test_size_at_the_papers_widths(widths, embed, millions):
  count = tree.size(paper(widths, embed).shapes) / 1e6
  assert 260 < count < 280
  assert count == pytest.approx(millions, abs=0.1)


def test_traces_at_the_papers_size():
  plan = paper((576, 1152), 4096)
  x = jax.ShapeDtypeStruct((1, 2, 32, 32, 8), jnp.bfloat16)
  t = jax.ShapeDtypeStruct((1, 2), jnp.float32)
  trace = lambda params, x, t: around(plan.definition.bind(params), x, t)  # noqa: E731
  assert jax.eval_shape(trace, plan.shapes, x, t).shape == x.shape


def test_every_parameter_can_be_sharded():
  plan = paper((576, 1152), 768)
  sizes = {'data': 1, 'fsdp': 2, 'tensor': 2}
  specs = jax.tree.map(
    lambda leaf, names: axes.spec(names, leaf.shape, sizes), plan.shapes, plan.axes
  )
  assert all(any(spec) for spec in _matrices(specs, plan.shapes))


def _matrices(specs, shapes):
  specs, shapes = tree.flatten(specs), tree.flatten(shapes)
  return [specs[path] for path, leaf in shapes.items() if leaf.ndim > 1]
