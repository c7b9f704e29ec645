"""ArrayRecord files of records, written and read.

A record is a map in msgpack, every value of the type that was given: str, int, float,
bool, None, bytes, lists, dicts with text as keys, NumPy arrays of integers, floats and
booleans. An array is extension 1: a list in msgpack of its NumPy type (such as '<f4'),
its shape and its bytes. Files are called `name-00000-of-00008.array_record`; a set that
lacks one cannot be read.
"""

import contextlib
import glob
import os
import re
import tempfile
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
from array_record.python import array_record_data_source, array_record_module

from transfusion_jax.core import paths
from transfusion_jax.data.sources import files, source

SUFFIX = '.array_record'
SHARD = re.compile(rf'(?P<set>.*)-(?P<number>\d{{5}})-of-(?P<count>\d{{5}}){SUFFIX}')
ARRAY = 1
KINDS = 'biuf'
OPTIONS = 'group_size:1'  # else a record costs its neighbours


class ArrayRecord:
  """The records that writers have written, in the order of files and records.

  A record takes a tenth of a millisecond: threads that read ahead cost more than they
  gain (`grain.ReadOptions(num_threads=0)`) unless something slow follows.
  """

  def __init__(self, path: str, copies: str):
    """Counts the records of every file.

    Args:
      path: of the files; see `files`.
      copies: folder for copies of files that lie elsewhere; empty if none do.

    Raises:
      ValueError: there are no such files, a set of them is not complete, one is damaged
        or not of this format, or there is no record in them.
    """
    self._files = files.find(path, (SUFFIX,))
    _check_sets(self._files.names, path)
    paths = self._files.map(lambda number: self._files.copy(number, copies))
    counts = [_count(local, self._files.path(n)) for n, local in enumerate(paths)]
    self._ends = np.cumsum(counts).tolist()
    if not len(self):
      raise ValueError(
        f'expected at least one record, found none in the {len(self._files)} files at '
        f'{path}; write them again'
      )
    ranges = [f'{local}[0:{n}]' for local, n in zip(paths, counts, strict=True)]
    self._records = array_record_data_source.ArrayRecordDataSource(ranges)
    self._check_format()

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> source.Record:
    with source.named(self, index):
      return unpack(self._bytes(index))

  def name(self, index: int) -> str:
    """The path and the number of the record therein, from 0."""
    number, within = source.locate(index, self._ends)
    return f'{self._files.path(number)}: record {within}'

  def fingerprint(self) -> str:
    return source.digest(['array_record', self._files.listing(), self._ends])

  def summary(self) -> source.Summary:
    return source.Summary(len(self), passed=self._files.passed)

  def _bytes(self, index: int) -> bytes:
    index = range(len(self))[index]
    try:
      return self._records[index]
    except (ValueError, RuntimeError, IndexError) as error:
      raise ValueError(
        f'expected a sound record, found {source.one_line(error)}; fetch or write the '
        'file again'
      ) from error

  def _check_format(self) -> None:
    """Bytes that are sound and yet no record are another format's."""
    try:
      first = self._bytes(0)
    except ValueError:
      return  # damaged: for whoever reads that record
    with source.named(self, 0):
      unpack(first)


class Writer(contextlib.AbstractContextManager):
  """Writes one file of a set, which appears when it is whole, or never.

  `with Writer('data/train', 0, 8) as writer: writer.write({'text': 'a fox'})`.
  """

  def __init__(self, prefix: str, shard: int, shards: int):
    """Args: prefix: path of the set; shard: number of the file, of `shards`."""
    self._path = shard_path(prefix, shard, shards)
    self._private = tempfile.TemporaryDirectory() if '://' in self._path else None
    if self._private:  # nobody else can put a link where it is to be written
      self._part = os.path.join(self._private.name, os.path.basename(self._path))
    else:
      self._part = f'{_unfinished(self._path)}{os.getpid()}'
      os.makedirs(os.path.dirname(self._part) or '.', exist_ok=True)
    self._writer = array_record_module.ArrayRecordWriter(self._part, OPTIONS)

  def write(self, record: Mapping[str, Any]) -> None:
    """Appends a record.

    Raises:
      ValueError: it holds what would not come back as it was.
    """
    self._writer.write(pack(record))

  def __exit__(self, kind, error, trace) -> None:
    self._writer.close()
    if kind is None:
      with open(self._part, 'rb+') as part:
        os.fsync(part.fileno())
      files.publish(self._part, self._path)
    else:
      os.remove(self._part)
    if self._private:
      self._private.cleanup()


def shard_path(prefix: str, shard: int, shards: int) -> str:
  """Name of one file of a set."""
  assert 0 <= shard < shards, f'shard {shard} of {shards}'
  return f'{prefix}-{shard:05d}-of-{shards:05d}{SUFFIX}'


def written(prefix: str, shard: int, shards: int) -> bool:
  """True if one file of a set is there, and so is whole."""
  return files.exists(shard_path(prefix, shard, shards))


def sweep(prefix: str, shard: int, shards: int) -> None:
  """Removes what writers of a file on this machine have left that were killed."""
  path = shard_path(prefix, shard, shards)
  if '://' not in path:  # else it lay in a folder of its own
    for part in glob.glob(f'{glob.escape(_unfinished(path))}*'):
      os.remove(part)


def _unfinished(path: str) -> str:
  """Path, without its ending, of a file that is being written.

  Beside the file: only then can it be renamed into its place.
  """
  folder, name = os.path.split(paths.local(path, 'files of records'))
  return os.path.join(folder, f'.{name}.')


def pack(record: Mapping[str, Any]) -> bytes:
  """A record as bytes.

  Raises:
    ValueError: it holds what would not come back as it was.
  """
  try:
    return msgpack.packb(_checked(dict(record)), default=_extension, strict_types=True)
  except (ValueError, OverflowError, TypeError, RecursionError) as error:
    raise ValueError(
      f'expected values that can be stored, found {source.one_line(error)}; leave them '
      'out'
    ) from error


def unpack(data: bytes) -> source.Record:
  """The inverse of `pack`; arrays cannot be written to.

  Raises:
    ValueError: it was not made by `pack`.
  """
  try:
    record = msgpack.unpackb(data, ext_hook=_array)
  except (ValueError, TypeError, msgpack.UnpackException) as error:
    reason = source.one_line(error)
  else:
    if isinstance(record, dict):
      return record
    reason = type(record).__name__
  raise ValueError(
    f'expected a record written by array_record.Writer, found {len(data)} bytes that '
    f'are none ({reason}); a TFDS data set is read by its name, others are to be '
    'written again'
  )


def _checked(value: Any) -> Any:
  """The value, unless a dict in it has other keys than text."""
  if type(value) is dict:
    for key, each in value.items():
      if type(key) is not str:
        raise TypeError(f'a key of type {type(key).__name__}')
      _checked(each)
  elif type(value) is list:
    for each in value:
      _checked(each)
  return value


def _extension(value: Any) -> msgpack.ExtType:
  """Encodes types that msgpack does not have."""
  if type(value) is np.ndarray and value.dtype.kind in KINDS:
    parts = [value.dtype.str, list(value.shape), value.tobytes()]
    return msgpack.ExtType(ARRAY, msgpack.packb(parts))
  kind = f'{value.dtype} array' if isinstance(value, np.ndarray) else type(value)
  raise TypeError(f'a value of type {kind}')


def _array(code: int, data: bytes) -> np.ndarray:
  if code != ARRAY:
    raise ValueError(f'extension {code}')
  kind, shape, content = msgpack.unpackb(data)
  return np.frombuffer(content, np.dtype(kind)).reshape(shape)


def _check_sets(names: tuple[str, ...], path: str) -> None:
  """Complains of a set of files that lacks some."""
  sets: dict[tuple[str, int], set[int]] = {}
  for name in names:
    if shard := SHARD.fullmatch(name):
      key = shard['set'], int(shard['count'])
      sets.setdefault(key, set()).add(int(shard['number']))
  for (name, count), found in sets.items():
    missing = sorted(set(range(count)) - found)
    if missing:
      raise ValueError(
        f'expected {count} files {name}-*{SUFFIX} at {path}, found {len(found)}, the '
        f'first that is missing is number {missing[0]}; write what is missing'
      )


def _count(local: str, path: str) -> int:
  """Records of a file.

  Raises:
    ValueError: it is damaged, or not of this format.
  """
  try:
    reader = array_record_module.ArrayRecordReader(local)
    count = reader.num_records()
    reader.close()
  except (ValueError, RuntimeError, OSError) as error:
    raise ValueError(
      f'expected an ArrayRecord file, found {path}: {source.one_line(error)}; fetch or '
      'write it again'
    ) from error
  return count
