"""Writes files of tensors as PyTorch does, without PyTorch."""

import collections
import io
import pathlib
import pickle
import sys
import types
import zipfile
from collections.abc import Mapping
from typing import Any
from unittest import mock

import numpy as np

from transfusion_jax.core import torch_file

NAMES = {'f4': 'FloatStorage', 'f8': 'DoubleStorage', 'f2': 'HalfStorage'}
NAMES |= {'i8': 'LongStorage', 'c8': 'ComplexFloatStorage', 'V2': 'BFloat16Storage'}


def write(
  path: pathlib.Path,
  arrays: Mapping[str, Any],
  *,
  zipped: bool = False,
  beside: Mapping[str, Any] | None = None,
) -> None:
  """Writes a dictionary of arrays; anything else in it is pickled as it is.

  Args:
    path: of the file.
    arrays: by name.
    zipped: as PyTorch writes since 1.6.
    beside: what a trainer saves beside its `state_dict`; None: only the arrays.
  """
  torch, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
  for name in NAMES.values():
    setattr(torch, name, type(name, (), {'__module__': 'torch'}))

  def _rebuild_tensor_v2():
    raise AssertionError('named, never called')

  _rebuild_tensor_v2.__module__ = 'torch._utils'
  _rebuild_tensor_v2.__qualname__ = '_rebuild_tensor_v2'
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2
  torch._utils = utils

  class Storage:
    """What stands in the pickle for the bytes of an array."""

    def __init__(self, key: str, array: np.ndarray):
      self.reference = (
        'storage', getattr(torch, NAMES[array.dtype.str[1:]]), key, 'cpu', array.size,
        None,
      )  # fmt: skip

  class Tensor:
    """What PyTorch pickles of a tensor."""

    def __init__(self, key: str, array: np.ndarray):
      strides = tuple(each // array.itemsize for each in array.strides)
      values = (Storage(key, array), 0, array.shape, strides, False, {})
      self.values = values

    def __reduce__(self):
      return _rebuild_tensor_v2, self.values

  class Writer(pickle.Pickler):
    """Storages lie beside the pickle."""

    def persistent_id(self, value):
      return value.reference if isinstance(value, Storage) else None

  tensors = collections.OrderedDict(
    (key, Tensor(key, each) if isinstance(each, np.ndarray) else each)
    for key, each in arrays.items()
  )
  stored = {key: each for key, each in arrays.items() if isinstance(each, np.ndarray)}
  if beside is not None:
    tensors = {'epoch': 3, **beside, 'state_dict': tensors}
  with (
    mock.patch.dict(sys.modules, {'torch': torch, 'torch._utils': utils}),
    path.open('wb') as file,
  ):
    if zipped:
      _zip(file, lambda into: Writer(into, protocol=2).dump(tensors), stored)
      return
    for head in (torch_file.MAGIC, 1001, {'little_endian': True}):
      pickle.dump(head, file, protocol=2)
    Writer(file, protocol=2).dump(tensors)
    pickle.dump(list(stored), file, protocol=2)
    for array in stored.values():
      file.write(np.int64(array.size).tobytes() + array.tobytes(order='A'))


def _zip(file, dump, stored: Mapping[str, np.ndarray]) -> None:
  pickled = io.BytesIO()
  dump(pickled)
  with zipfile.ZipFile(file, 'w') as archive:  # not compressed
    archive.writestr('archive/data.pkl', pickled.getvalue())
    archive.writestr('archive/byteorder', 'little')
    for key, array in stored.items():
      archive.writestr(f'archive/data/{key}', array.tobytes(order='A'))
    archive.writestr('archive/version', '3\n')
