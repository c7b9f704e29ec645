"""The arrays of a PyTorch file (`.pth`), read without PyTorch.

Such a file, as PyTorch wrote it before 1.6 and still does on request, is a row of
pickles: a magic number, a version, the machine, a dictionary of tensors, and the names
of their storages, whose bytes follow. A pickle may call anything that it names; these
get tensors and dictionaries, and any other name is refused.
"""

import collections
import pathlib
import pickle
from typing import Any, BinaryIO

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C

_STORAGES = {
  'FloatStorage': '<f4',
  'DoubleStorage': '<f8',
  'HalfStorage': '<f2',
  'LongStorage': '<i8',
}


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Arrays by name.

  Args:
    path: of a file that holds one dictionary of tensors, a `state_dict`.

  Raises:
    ValueError: the file is something else, or holds more than tensors.
    OSError: the file cannot be read.
  """
  with path.open('rb') as file:
    try:
      found = _tensors(file, path.stat().st_size)
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
      raise ValueError(
        f'expected a dictionary of tensors that torch.save wrote (not as a zip file), '
        f'found {path} ({error}); give the file that the package brings'
      ) from error
  return found


def _tensors(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
  magic, _, _ = (_Reader(file, size).load() for _ in range(3))
  if magic != MAGIC:
    raise pickle.UnpicklingError('it begins with another number')
  reader = _Reader(file, size)
  found = reader.load()
  for key in _Reader(file, size).load():
    storage = reader.storages[key]
    (count,) = np.frombuffer(file.read(8), '<i8')
    if count != storage.size or file.readinto(storage.view(np.uint8)) < storage.nbytes:
      raise pickle.UnpicklingError('tensors are cut off')
  if not all(isinstance(value, np.ndarray) for value in found.values()):
    raise pickle.UnpicklingError('it holds more than tensors')
  return dict(found)


class _Reader(pickle.Unpickler):
  """Knows the few names that a dictionary of tensors needs."""

  def __init__(self, file: BinaryIO, size: int):
    super().__init__(file)
    self._size = size
    self.storages: dict[str, np.ndarray] = {}

  def find_class(self, module: str, name: str) -> Any:
    if module == 'torch' and name in _STORAGES:
      return np.dtype(_STORAGES[name])
    known = {
      ('collections', 'OrderedDict'): collections.OrderedDict,
      ('torch._utils', '_rebuild_tensor_v2'): _tensor,
    }
    if (module, name) not in known:
      raise pickle.UnpicklingError(f'it names {module}.{name}, which is no tensor')
    return known[module, name]

  def persistent_load(self, reference: tuple[Any, ...]) -> np.ndarray:
    """Room for a storage, to be filled when its bytes come."""
    _, dtype, key, _, count, _ = reference
    if not 0 <= count * dtype.itemsize <= self._size:
      raise pickle.UnpicklingError('tensors are larger than the file')
    return self.storages.setdefault(key, np.empty(count, dtype))


def _tensor(storage, offset, shape, strides, *_) -> np.ndarray:
  """A tensor as a view of its storage; strides count elements."""
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  if min((offset, *strides, *shape)) < 0 or last >= storage.size:
    raise pickle.UnpicklingError('a tensor reaches beyond its storage')
  strides = tuple(each * storage.itemsize for each in strides)
  return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides)
