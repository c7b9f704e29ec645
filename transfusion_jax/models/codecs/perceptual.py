"""LPIPS: how different two pictures look to a network that knows photographs.

The features of a VGG16 (Simonyan and Zisserman, 2015) after each of its five stages are
brought to unit length at every pixel, and squared differences are added up under learnt
weights (Zhang et al., 2018, eq. 1). This is the shift-tolerant variant (Ghildyal and
Liu, 2022): stages are joined by a maximum over 2 x 2 pixels at stride 1, a blur and
every second pixel. Its weights are complete in the package stlpips-pytorch, which is
read and never imported. They are frozen: part of the loss, not of what is trained.
"""

import importlib.util
import itertools
import pathlib
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transfusion_jax.core import paths, torch_file
from transfusion_jax.models import layers, module
from transfusion_jax.models.published import from_torch

WIDTHS = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
"""Channels of every convolution of every stage of VGG16."""

PACKAGE, INSIDE = 'stlpips_pytorch', 'weights/vST0.0/vgg_shift_tolerant.pth'


class Perceptual(module.Module):
  """The distance of pictures, each pair by itself."""

  def __init__(self, rngs: module.Rngs, widths: Sequence[Sequence[int]]):
    self.shift = module.constant(0.0, norm=3)
    self.scale = module.constant(1.0, norm=3)
    inputs = [3, *itertools.chain(*widths)]
    self.convs = module.List(
      layers.Conv(rngs, before, after, size=3)
      for before, after in itertools.pairwise(inputs)
    )
    self.weights = module.List(module.constant(1.0, norm=each[-1]) for each in widths)
    self.lengths = tuple(len(each) for each in widths)

  def __call__(
    self, x: Float[Array, 'b h w 3'], y: Float[Array, 'b h w 3']
  ) -> Float[Array, ' b']:
    """LPIPS of pictures in [-1, 1]; 0 for equal ones."""
    distance = jnp.zeros(x.shape[0])
    features = zip(self._stages(x), self._stages(y), strict=True)
    for weight, (f, g) in zip(self.weights, features, strict=True):
      error = jnp.einsum('bhwc,c->bhw', jnp.square(f - g), weight[...])
      distance += jnp.mean(error, axis=(1, 2))
    return distance

  def _stages(self, x: Float[Array, 'b h w 3']) -> Iterator[Float[Array, 'b y x c']]:
    """Features of unit length after every stage."""
    wide = (None, None, None)
    y = (x - self.shift[...][wide]) / self.scale[...][wide]
    convs = iter(self.convs)
    for stage, length in enumerate(self.lengths):
      y = _halve(y) if stage else y
      for conv in itertools.islice(convs, length):
        y = jax.nn.relu(conv(y))
      # Under the root: features that are all zero have a gradient.
      squares = jnp.sum(jnp.square(y), axis=-1, keepdims=True)
      yield y / (jnp.sqrt(squares + 1e-20) + 1e-10)


def _halve(y: Float[Array, 'b h w c']) -> Float[Array, 'b y x c']:
  """Maximum over 2 x 2 at stride 1, blur of (1, 2, 1) / 4 at stride 2, both ways."""
  for axis in (1, 2):
    first, last = (jax.lax.slice_in_dim(y, i, y.shape[axis] - 1 + i, axis=axis)
                   for i in (0, 1))  # fmt: skip
    y = jnp.maximum(first, last)
  y = jnp.pad(y, ((0, 0), (2, 2), (2, 2), (0, 0)), mode='reflect')
  for axis in (1, 2):
    end = y.shape[axis]
    a, b, c = (jax.lax.slice_in_dim(y, i, end - 2 + i, stride=2, axis=axis)
               for i in range(3))  # fmt: skip
    y = 0.25 * (a + 2.0 * b + c)
  return y


def find(file: str) -> pathlib.Path:
  """The weights: the file named, or the installed package's.

  Raises:
    ValueError: there is no such file, or it is a URL.
  """
  package = importlib.util.find_spec(PACKAGE)  # found, not imported: it needs PyTorch
  folders = package.submodule_search_locations if package else ()
  places = [pathlib.Path(p, INSIDE) for p in folders]
  if file:
    places = [paths.local(file, 'the weights of LPIPS')]
  for place in places:
    if place.is_file():
      return place
  raise ValueError(
    f'expected the weights of LPIPS, found no {file or "installed package"}; pip '
    'install --no-deps stlpips-pytorch==0.0.2, or set objective.lpips_weight=0'
  )


def read(path: pathlib.Path, shapes: module.Params) -> dict[str, module.Params]:
  """The parameters of `Perceptual` from the package's file.

  Args:
    path: see `find`.
    shapes: nested dict of the parameters' `jax.ShapeDtypeStruct`s.

  Raises:
    ValueError: the file holds something else.
  """
  tensors = torch_file.read(path)
  unused = [name for name in tensors if name.endswith('.filt')]  # (1, 2, 1), as ours
  return from_torch.adopt(
    tensors, _names(WIDTHS), shapes, source=str(path), unused=unused
  )


def _names(widths: Sequence[Sequence[int]]) -> dict[tuple[str, ...], str]:
  """Places in the package's sequences: a ReLU behind every convolution, and a pooling
  and a blur between stages, count as well.
  """
  names = {('shift',): 'scaling_layer.shift', ('scale',): 'scaling_layer.scale'}
  index, conv = 0, 0
  for stage, each in enumerate(widths):
    names['weights', f'{stage}'] = f'lin{stage}.model.1.weight'
    for _ in each:
      theirs = f'net.slice{stage + 1}.{index}'
      names['convs', f'{conv}', 'kernel'] = f'{theirs}.weight'
      names['convs', f'{conv}', 'bias'] = f'{theirs}.bias'
      index, conv = index + 2, conv + 1
    index += 2
  return names
