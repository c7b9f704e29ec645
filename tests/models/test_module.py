"""Modules as plain nested dicts, and the names of their axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.core import tree
from transfusion_jax.models import module


class Layer(module.Module):
  """Its attributes are named to collide with what a Flax variable calls its array."""

  def __init__(self, rngs):
    self.value = module.weight(rngs, scale=1.0, fan_in=4, embed=4, mlp=6)
    self.key = module.weight(rngs, scale=0.0, embed=4)
    self.gain = module.constant(1.0, norm=6)

  def __call__(self, x):
    return x @ self.value[...] * self.gain[...][None]


class Stack(module.Module):
  def __init__(self, rngs):
    self.layers = module.stack(Layer, rngs, 3)
    self.listed = module.List([Layer(rngs), Layer(rngs)])


def test_paths_shapes_and_axes_agree():
  plan = module.blueprint(Stack)
  shapes, axes = tree.flatten(plan.shapes), tree.flatten(plan.axes)
  assert shapes.keys() == axes.keys()
  assert len(shapes) == 9
  assert shapes['layers', 'value'].shape == (3, 4, 6)
  assert axes['layers', 'value'] == ('embed', 'mlp')
  assert shapes['listed', '1', 'gain'].shape == (6,)
  assert axes['listed', '1', 'gain'] == ('norm',)


@pytest.mark.parametrize('adapter', ['linear', 'unet'])
def test_every_parameter_of_the_model_has_axes_of_its_rank(adapter):
  plan = tiny.blueprint(adapter)
  shapes, axes = tree.flatten(plan.shapes), tree.flatten(plan.axes)
  assert shapes.keys() == axes.keys()
  for path, shape in shapes.items():
    stacked = 1 if 'blocks' in path and 'transformer' in path else 0
    assert len(axes[path]) + stacked == len(shape.shape), path


def test_bind_is_the_inverse_of_split():
  made = Stack(module.Rngs(0))
  definition, params = module.split(made)
  assert isinstance(params['layers'], dict)
  bound = definition.bind(params)
  x = jnp.ones((2, 4))
  np.testing.assert_array_equal(bound.listed[1](x), made.listed[1](x))
  again = module.split(bound)
  assert again[0] == definition
  assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), again[1], params))


def test_bind_takes_numbers_by_name_and_not_by_order():
  definition, params = module.split(Layer(module.Rngs(0)))
  shuffled = {name: params[name] for name in sorted(params, reverse=True)}
  x = jnp.ones((2, 4))
  np.testing.assert_array_equal(
    definition.bind(shuffled)(x), definition.bind(params)(x)
  )


def test_the_blueprint_foretells_what_init_makes():
  plan = module.blueprint(Stack)
  made = plan.init(jax.random.key(0))
  assert jax.tree.map(lambda x: (x.shape, x.dtype), made) == jax.tree.map(
    lambda x: (x.shape, x.dtype), plan.shapes
  )
  assert jax.tree.all(
    jax.tree.map(lambda x: isinstance(x, jax.ShapeDtypeStruct), plan.shapes)
  )


def test_stacked_layers_start_with_numbers_of_their_own():
  values = module.split(Stack(module.Rngs(0)))[1]['layers']['value']
  assert not np.allclose(values[0], values[1])


def test_weights_have_the_deviation_asked_for():
  rngs = module.Rngs(0)
  big = module.weight(rngs, scale=2.0, fan_in=100, embed=100, mlp=200)[...]
  np.testing.assert_allclose(np.std(big), 0.2, rtol=0.03)
  assert abs(float(np.mean(big))) < 0.01
  assert not module.weight(rngs, scale=0.0, fan_in=3, embed=3)[...].any()
  assert (module.constant(3.0, norm=5)[...] == 3.0).all()


def test_a_repeated_axis_name_takes_a_suffix():
  made = module.weight(module.Rngs(0), scale=1.0, conv__y=3, conv__x=3, channels_in=2)
  assert made.axes == ('conv', 'conv', 'channels_in')
