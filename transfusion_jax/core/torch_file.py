"""Reader of PyTorch files (`.pth`, `.pt`, `.ckpt`, `.bin`) that does not need PyTorch.

Since PyTorch 1.6 such a file is an uncompressed zip archive: `data.pkl` describes the
tensors, and every storage is a member of its own. The legacy format is a sequence of
pickles: a magic number, a version, the machine, a dictionary of tensors, and the keys
of their storages, whose bytes follow.

A pickle can call any function that it names. This reader imports nothing: the few names
that tensors and dictionaries need are built in, and every other name becomes an inert
object, which is refused where a tensor is expected. Trainers store such objects beside
the weights.
"""

import collections
import io
import math
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from transfusion_jax.core import command

MAGIC = 0x1950A86A20F9469CFC6C

WEIGHTS = 'state_dict'
"""Key of the dictionary of tensors in a trainer's checkpoint."""

_STORAGES = {
  'FloatStorage': np.dtype('<f4'),
  'DoubleStorage': np.dtype('<f8'),
  'HalfStorage': np.dtype('<f2'),
  'BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
  'LongStorage': np.dtype('<i8'),
  'IntStorage': np.dtype('<i4'),
  'ShortStorage': np.dtype('<i2'),
  'CharStorage': np.dtype('i1'),
  'ByteStorage': np.dtype('u1'),
  'BoolStorage': np.dtype('?'),
}

Choose = Callable[[list[str]], Iterable[str]]
"""Selects the names to read from all names of a file."""


class _Storage(NamedTuple):
  """Storage that one or several tensors are views of; size in elements."""

  dtype: np.dtype
  key: str
  size: int


class _Tensor(NamedTuple):
  """Tensor: a view of a storage; offset and strides in elements."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def read(path: pathlib.Path, choose: Choose = list) -> dict[str, np.ndarray]:
  """Reads arrays by name.

  Args:
    path: file with one dictionary of tensors, at the top or under `state_dict`.
    choose: selects the tensors to read.

  Raises:
    ValueError: the file has another format, or a selected entry is not a tensor.
    OSError: the file cannot be opened.
  """
  with path.open('rb') as file:
    try:
      return (_zipped if zipfile.is_zipfile(file) else _in_a_row)(file, choose)
    except Exception as error:  # broken bytes make pickle and zipfile raise anything
      raise ValueError(
        f'expected a dictionary of tensors that torch.save wrote, found {path} '
        f'({command.line(error)}); give the file as its authors have it, or '
        'save its tensors as .safetensors'
      ) from error


def _zipped(file: io.BufferedIOBase, choose: Choose) -> dict[str, np.ndarray]:
  with zipfile.ZipFile(file) as archive:
    described = [name for name in archive.namelist() if name.endswith('/data.pkl')]
    if len(described) != 1:
      raise pickle.UnpicklingError('a zip file without one data.pkl')
    root = described[0].removesuffix('data.pkl')
    order = f'{root}byteorder'
    if order in archive.namelist() and _member(archive, order) != b'little':
      raise pickle.UnpicklingError('numbers in another order of bytes')
    found = _Reader(io.BytesIO(_member(archive, described[0]))).load()
    return _chosen(
      found, choose, lambda each: _member(archive, f'{root}data/{each.key}')
    )


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
  """Reads a member, which must be uncompressed and so cannot exceed the file."""
  info = archive.getinfo(name)
  if info.compress_type != zipfile.ZIP_STORED or info.file_size > info.compress_size:
    raise pickle.UnpicklingError(f'{name} is compressed')
  return archive.read(info)


def _in_a_row(file: io.BufferedIOBase, choose: Choose) -> dict[str, np.ndarray]:
  size = file.seek(0, io.SEEK_END)
  file.seek(0)
  magic, _, machine = (_Reader(file).load() for _ in range(3))
  if magic != MAGIC:
    raise pickle.UnpicklingError('it begins with another number')
  if not machine['little_endian']:
    raise pickle.UnpicklingError('numbers in another order of bytes')
  reader = _Reader(file)
  found, places = reader.load(), {}
  for key in _Reader(file).load():
    storage = reader.storages[key]
    count = int.from_bytes(file.read(8), 'little')
    places[key] = file.tell()
    end = places[key] + storage.size * storage.dtype.itemsize
    if count != storage.size or end > size:
      raise pickle.UnpicklingError('tensors are cut off')
    file.seek(end)

  def content(storage: _Storage) -> bytes:
    file.seek(places[storage.key])
    return file.read(storage.size * storage.dtype.itemsize)

  return _chosen(found, choose, content)


def _chosen(
  found: Any, choose: Choose, content: Callable[[_Storage], bytes]
) -> dict[str, np.ndarray]:
  """Arrays of the selected tensors; `content` returns the bytes of a storage."""
  if not isinstance(found, dict):
    raise pickle.UnpicklingError('it holds no dictionary')
  found = found[WEIGHTS] if isinstance(found.get(WEIGHTS), dict) else found
  if not all(isinstance(name, str) for name in found):
    raise pickle.UnpicklingError('it holds more than tensors under their names')
  tensors = {name: found[name] for name in choose(list(found))}
  for name, value in tensors.items():
    if isinstance(value, _Inert):
      raise pickle.UnpicklingError(f'it names {value.name}, which is no tensor')
    if not isinstance(value, _Tensor):
      raise pickle.UnpicklingError(f'it holds more than tensors: {name}')
  storages = {
    each: np.ndarray((each.size,), each.dtype, content(each))
    for each in {value.storage for value in tensors.values()}
  }
  return {
    name: _array(value, storages[value.storage]) for name, value in tensors.items()
  }


def _array(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
  strides = tuple(each * storage.itemsize for each in tensor.strides)
  return np.lib.stride_tricks.as_strided(
    storage[tensor.offset :], tensor.shape, strides
  )


class _Inert:
  """Inert placeholder for a pickled object that is not a tensor."""

  def __new__(cls, *_):
    """Creates a placeholder, or returns the one that a pickle uses as a class."""
    return cls if isinstance(cls, _Inert) else super().__new__(cls)

  def __init__(self, name: str):
    self.name = name

  def __call__(self, *_, **__):
    return self

  def __setstate__(self, _):
    """Ignores the state that a pickle sets."""

  append = extend = add = __setitem__ = lambda *_: None


# The Python unpickler: the one in C allocates whatever memory a pickle asks for.
class _Reader(pickle._Unpickler):
  """Unpickler that resolves only the names that a dictionary of tensors needs."""

  def __init__(self, file: io.BufferedIOBase):
    super().__init__(file)
    self.storages: dict[str, _Storage] = {}

  def find_class(self, module: str, name: str) -> Any:
    if module == 'torch' and name in _STORAGES:
      return _STORAGES[name]
    known = {  # made anew: a pickle may write attributes onto what it gets
      ('collections', 'OrderedDict'): lambda *items: collections.OrderedDict(*items),
      ('torch._utils', '_rebuild_tensor_v2'): lambda *parts: _tensor(*parts),
      ('torch._utils', '_rebuild_parameter'): lambda tensor, *_: tensor,
    }
    return known.get((module, name)) or _Inert(f'{module}.{name}')

  def persistent_load(self, reference: Any) -> _Storage:
    """Storage of a reference; its bytes are read later."""
    _, dtype, key, _, size, *_ = reference
    if isinstance(dtype, _Inert):
      raise pickle.UnpicklingError(f'it names {dtype.name}, which is no tensor')
    if not isinstance(dtype, np.dtype) or not isinstance(key, str):
      raise pickle.UnpicklingError('a storage without type and name')
    return self.storages.setdefault(key, _Storage(dtype, key, int(size)))


def _tensor(storage, offset, shape, strides, *_) -> _Tensor:
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  size = math.prod(shape)
  within = size <= storage.size and (last < storage.size or not size)
  if not within or min((offset, *strides, *shape)) < 0:
    raise pickle.UnpicklingError('a tensor reaches beyond its storage')
  return _Tensor(
    storage=storage, offset=offset, shape=tuple(shape), strides=tuple(strides)
  )
