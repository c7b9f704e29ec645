"""Weights of others under our names, from the names and layouts of PyTorch."""

from collections.abc import Collection, Mapping

import jax.numpy as jnp
import numpy as np

from transfusion_jax.core import tensor_files, tree
from transfusion_jax.models import module


def adopt(
  tensors: Mapping[str, np.ndarray],
  names: Mapping[tuple[str, ...], str],
  shapes: module.Params,
  *,
  source: str,
  unused: Collection[str] = (),
) -> module.Params:
  """Parameters of a model from the tensors of a file, every one of them used.

  A kernel [o, i, y, x] becomes [y, x, i, o], a matrix [o, i] becomes [i, o]; a tensor
  with axes of length one too many loses them.

  Args:
    tensors: by their names in the file.
    names: of the tensor for every parameter.
    shapes: nested dict of the parameters' `jax.ShapeDtypeStruct`s.
    source: the file, for errors.
    unused: names of tensors that are known and not needed.

  Raises:
    ValueError: a tensor is missing, superfluous, of another shape, or holds something
      else than finite numbers.
  """
  wanted = tree.flatten(shapes)
  assert wanted.keys() == names.keys(), wanted.keys() ^ names.keys()
  _none(set(names.values()) - set(tensors), 'all weights of the model', 'no', source)
  surplus = set(tensors) - set(names.values()) - set(unused)
  _none(surplus, 'only weights of the model', 'also', source)
  return tree.nest(
    {
      path: _laid_out(tensors[names[path]], leaf.shape, f'{names[path]} in {source}')
      for path, leaf in wanted.items()
    }
  )


def _laid_out(x: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
  order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(shape), tuple(range(len(shape))))
  theirs = tuple(shape[axis] for axis in order)
  if [n for n in x.shape if n > 1] != [n for n in theirs if n > 1]:
    raise ValueError(
      f'expected {name} of shape {theirs}, found {x.shape}; it is of another model'
    )
  return np.ascontiguousarray(
    _numbers(x, name).reshape(theirs).transpose(np.argsort(order))
  )


def _numbers(x: np.ndarray, name: str) -> np.ndarray:
  """The numbers of a tensor in float32."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(
      f'expected {name} in floating point, found {x.dtype}; weights of integers have '
      'scales that are not known here, convert them to float32'
    )
  with np.errstate(over='ignore', invalid='ignore'):
    x = x.astype(np.float32)
  broken = x.size - np.count_nonzero(np.isfinite(x))
  if broken:
    raise ValueError(
      f'expected finite numbers in {name}, found NaN or infinity in {broken} of '
      f'{x.size}; the file is damaged, get it once more or use other weights'
    )
  return x


def _none(names: set[str], expected: str, found: str, source: str) -> None:
  if names:
    raise ValueError(
      f'expected {expected} in {source}, found {found} '
      f'{tensor_files.listed(sorted(names))}; the file is of another model'
    )
