"""The arrays of a PyTorch file (`.pth`, `.pt`, `.ckpt`, `.bin`), read without PyTorch.

Since PyTorch 1.6 such a file is an uncompressed zip archive: `data.pkl` describes the
tensors, and every storage is a member of its own. Before, and still on request, it is a
row of pickles: a magic number, a version, the machine, a dictionary of tensors, and the
names of their storages, whose bytes follow.

A pickle may call anything that it names. Here nothing is ever imported: these names get
tensors and dictionaries, and every other one an object that does nothing, which is
refused where a tensor is expected. Trainers put such things beside the weights.
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
"""Where the dictionary of tensors lies in what a trainer has saved."""

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
"""From all names of a file to those that are to be read."""


class _Storage(NamedTuple):
  """Where the numbers of tensors lie."""

  dtype: np.dtype
  key: str
  size: int


class _Tensor(NamedTuple):
  """A view of a storage; offset and strides count elements."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def read(path: pathlib.Path, choose: Choose = list) -> dict[str, np.ndarray]:
  """Arrays by name.

  Args:
    path: of a file that holds one dictionary of tensors, a `state_dict`, by itself or
      under that name.
    choose: which tensors; the others are not read.

  Raises:
    ValueError: the file is something else, or holds more than tensors.
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
  """The content of a member, which cannot be larger than the file."""
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
  """The tensors that are wanted; `content` gives the bytes of a storage."""
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
  """What stands for anything a pickle names and that is no tensor: it does nothing."""

  def __new__(cls, *_):
    """A new one, or itself where a pickle takes it for a class."""
    return cls if isinstance(cls, _Inert) else super().__new__(cls)

  def __init__(self, name: str):
    self.name = name

  def __call__(self, *_, **__):
    return self

  def __setstate__(self, _):
    """Whatever a pickle says that it holds."""

  append = extend = add = __setitem__ = lambda *_: None


# pickle.Unpickler, which is written in C, reserves whatever memory a pickle asks for.
class _Reader(pickle._Unpickler):
  """Knows the few names that a dictionary of tensors needs."""

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
    """A storage, whose bytes are elsewhere."""
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
  return _Tensor(storage, offset, tuple(shape), tuple(strides))
