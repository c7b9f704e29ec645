"""The patch discriminator: its layout, and that it judges pictures one by one."""

import jax
import jax.numpy as jnp
import numpy as np

from transfusion_jax.core import tree
from transfusion_jax.models import module
from transfusion_jax.models.codecs import discriminator


def plan(**changes):
  values = {'channels': 64, 'layers': 3, 'groups': 32, **changes}
  config = discriminator.DiscriminatorConfig(**values)
  return module.blueprint(lambda rngs: discriminator.Discriminator(rngs, config))


def test_layout_is_that_of_vqgan():
  made = plan()
  kernels = [made.shapes['entry'], *(b['conv'] for b in made.shapes['blocks'].values())]
  widths = [conv['kernel'].shape for conv in (*kernels, made.shapes['exit'])]
  sizes = [(3, 64), (64, 128), (128, 256), (256, 512), (512, 1)]
  assert widths == [(4, 4, *each) for each in sizes]
  assert 2.7e6 < tree.size(made.shapes) < 2.8e6
  run = lambda params, x: made.definition.bind(params)(x)  # noqa: E731
  logits = jax.eval_shape(run, made.shapes, jax.ShapeDtypeStruct((2, 64, 32, 3), float))
  assert logits.shape == (2, 8, 4)


def test_a_picture_is_judged_by_itself():
  made = plan(channels=4, layers=2, groups=2)
  random = np.random.default_rng(0)
  model = made.definition.bind(
    jax.tree.map(
      lambda leaf: jnp.asarray(random.normal(size=leaf.shape), float), made.shapes
    )
  )
  x = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
  judge = jax.jit(model)
  before, after = judge(x), judge(x.at[1].multiply(-1.0))
  np.testing.assert_array_equal(before[0], after[0])
  assert not jnp.allclose(before[1], after[1])
