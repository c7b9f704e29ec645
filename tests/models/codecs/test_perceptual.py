"""LPIPS against a slow reference in NumPy, and its weights from a file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import lpips_files, torch_files
from transfusion_jax.core import tree
from transfusion_jax.models import module
from transfusion_jax.models.codecs import perceptual

WAVES = 0.4414152
"""What the package's own code says of two pictures of waves."""


def pictures(seed: int, count=2, height=13, width=16):
  random = np.random.default_rng(seed)
  return random.uniform(-1, 1, (count, height, width, 3)).astype(np.float32)


def convolve(x, kernel, bias):
  """A 3 x 3 convolution, one pixel of the kernel after the other."""
  h, w = x.shape[:2]
  x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
  parts = (x[i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))
  return sum(parts) + bias


def halve(x):
  """Window by window."""
  h, w, c = x.shape
  pooled = np.array(
    [[x[i : i + 2, j : j + 2].max((0, 1)) for j in range(w - 1)] for i in range(h - 1)]
  )
  x = np.pad(pooled, ((2, 2), (2, 2), (0, 0)), mode='reflect')
  blur = np.outer([1, 2, 1], [1, 2, 1])[..., None] / 16
  rows, columns = (range(0, n - 2, 2) for n in x.shape[:2])
  return np.array(
    [[(x[i : i + 3, j : j + 3] * blur).sum((0, 1)) for j in columns] for i in rows]
  )


def slow(params, x, y):
  """LPIPS of two pictures in float64."""
  convs, total = iter(params['convs'].values()), 0.0
  x, y = ((each.astype(float) - params['shift']) / params['scale'] for each in (x, y))
  for stage, widths in enumerate(lpips_files.WIDTHS):
    if stage:
      x, y = halve(x), halve(y)
    for _ in widths:
      conv = next(convs)
      x, y = (np.maximum(convolve(z, conv['kernel'], conv['bias']), 0) for z in (x, y))
    f, g = (z / (np.sqrt((z**2).sum(-1, keepdims=True)) + 1e-10) for z in (x, y))
    total += ((f - g) ** 2 @ params['weights'][f'{stage}']).mean()
  return total


@functools.cache
def distance():
  plan, params = lpips_files.built()
  model = plan.definition.bind(jax.tree.map(jnp.asarray, params))
  return jax.jit(model)


def test_equals_the_reference():
  x, y = pictures(0), pictures(1)
  wanted = [slow(lpips_files.built()[1], a, b) for a, b in zip(x, y, strict=True)]
  found = distance()(x, y)
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  assert found[0] != found[1]


def test_equal_pictures_have_no_distance_and_grey_ones_a_gradient():
  x = np.zeros_like(pictures(0))
  np.testing.assert_allclose(distance()(x, x), 0.0, atol=1e-12)
  gradient = jax.jit(jax.grad(lambda y: jnp.sum(distance()(jnp.asarray(x), y))))(x)
  assert jnp.isfinite(gradient).all()


def test_a_pair_is_looked_at_by_itself():
  x, y = pictures(0), pictures(1)
  turned = np.concatenate([y[:1], -y[1:]])
  before, after = distance()(x, y), distance()(x, turned)
  assert before[0] == after[0]
  assert before[1] != after[1]


@pytest.fixture
def file(tmp_path, monkeypatch):
  monkeypatch.setattr(perceptual, 'WIDTHS', lpips_files.WIDTHS)
  path = tmp_path / 'small.pth'
  blur = {'net.slice2.5.filt': np.ones((3, 1, 3, 3), np.float32)}
  torch_files.write(path, lpips_files.theirs(lpips_files.built()[1]) | blur)
  return path


def test_weights_from_a_file(file):
  plan, params = lpips_files.built()
  assert perceptual.find(str(file)) == file
  found = perceptual.read(file, plan.shapes)
  assert jax.tree.structure(found) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, found, params)


def test_names_are_those_of_vgg16():
  names = perceptual._names(perceptual.WIDTHS).values()
  places = [name.split('.')[2] for name in names if name.endswith('weight')]
  convs = [name for name in names if name.startswith('net') and 'weight' in name]
  places = [int(name.split('.')[2]) for name in convs]
  assert places == [0, 2, 6, 8, 12, 14, 16, 20, 22, 24, 28, 30, 32]
  plan = module.blueprint(lambda rngs: perceptual.Perceptual(rngs, perceptual.WIDTHS))
  assert tree.size(plan.shapes) == 14_714_688 + 6 + sum(
    w[-1] for w in perceptual.WIDTHS
  )


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda tensors: tensors.pop('lin1.model.1.weight'), 'no lin1.model.1.weight'),
    (lambda tensors: tensors.update(extra=np.ones(1)), 'also extra'),
    (
      lambda tensors: tensors.update({'net.slice1.0.bias': np.ones(5)}),
      r'shape \(4,\), found \(5,\)',
    ),
  ],
)
def test_weights_of_something_else(file, change, message):
  tensors = lpips_files.theirs(lpips_files.built()[1])
  change(tensors)
  torch_files.write(file, tensors)
  with pytest.raises(ValueError, match=message):
    perceptual.read(file, lpips_files.built()[0].shapes)


def test_no_weights_say_how_to_get_them(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match='no-deps stlpips-pytorch==0.0.2'):
    perceptual.find(str(tmp_path / 'none.pth'))
  monkeypatch.setattr(perceptual, 'PACKAGE', 'there_is_no_such_package')
  with pytest.raises(ValueError, match='found no installed package'):
    perceptual.find('')


def test_the_packages_weights_where_it_is_installed():
  try:
    path = perceptual.find('')
  except ValueError:
    pytest.skip('stlpips-pytorch is not installed')
  plan = module.blueprint(lambda rngs: perceptual.Perceptual(rngs, perceptual.WIDTHS))
  model = plan.definition.bind(
    jax.tree.map(jnp.asarray, perceptual.read(path, plan.shapes))
  )
  y, x = np.mgrid[:32, :32] / 16.0
  waves = np.stack([np.sin(5 * x), np.sin(5 * y), np.sin(4 * x + 3 * y)], axis=-1)
  pair = [each[None].astype(np.float32) for each in (waves, 0.5 * waves[::-1])]
  np.testing.assert_allclose(jax.jit(model)(*pair), [WAVES], rtol=1e-4)
