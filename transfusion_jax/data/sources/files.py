"""Files of a corpus: on this machine, or wherever fsspec has a package that reads them.

A place is a file, a folder (with all that is below it, linked folders too) or a pattern
such as `shards/train-*.tar`; hidden files are left out. `gs://` wants the package
gcsfs, `s3://` wants s3fs.
"""

import errno
import io
import os
import posixpath
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, TypeVar

import fsspec
import fsspec.implementations.local

from transfusion_jax.data.sources import source

COMPRESSED = ('.gz', '.bz2', '.xz', '.zst')
PATTERN = '*?['
THREADS = 16
PAUSES = (0.5, 2.0, 8.0)
"""Seconds before a read that failed is tried again."""

GONE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
ODD = (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)
"""What is wrong with a file or its name, and will be tomorrow. Every process finds it
alike, where a disk or a network fails one of them."""

T = TypeVar('T')


class Files:
  """The files of one place, by number, in the order of their names.

  Attributes:
    names: below the place, with slashes.
    sizes: in bytes.
  """

  def __init__(
    self,
    system: fsspec.AbstractFileSystem,
    root: str,
    names: Sequence[str],
    sizes: Sequence[int],
  ):
    """Args: system: of files; root: folder of all; names, sizes: as above."""
    self._system, self._root = system, root
    self.names, self.sizes = tuple(names), tuple(sizes)

  def __len__(self) -> int:
    return len(self.names)

  @property
  def local(self) -> bool:
    """Whether they lie on this machine."""
    return _is_local(self._system)

  def path(self, number: int) -> str:
    """The full path of a file, as a person would write it."""
    return self._told(self._inner(number))

  def read(self, number: int, start: int = 0, end: int | None = None) -> bytes:
    """The bytes of a file from `start` up to `end`, as a rule all of them.

    Raises:
      ValueError: it cannot be read, or not so far.
      OSError: reading fails, again and again.
    """
    data = self._read(self._inner(number), start, end)
    if end is not None and len(data) != end - start:
      raise ValueError(
        f'expected {self.path(number)} to hold bytes {start} to {end}, found '
        f'{len(data)} of these {end - start}; it changed since it was opened: restart'
      )
    return data

  def read_beside(self, number: int, relative: str) -> bytes:
    """The bytes of another file, named from the folder of a file.

    Raises:
      ValueError: it is missing, cannot be read, or does not lie below that folder.
    """
    folder = posixpath.dirname(self._inner(number))
    path = posixpath.normpath(posixpath.join(folder, relative))
    if not path.startswith(folder.rstrip('/') + '/'):
      raise ValueError(
        f'expected the name of a file below {self._told(folder)}, found {relative!r}; '
        'move the file there and name it from there'
      )
    return source.not_empty(self._read(path, 0, None), self._told(path))

  def open(self, number: int) -> io.IOBase:
    """A file to read in order, or here and there.

    Raises:
      ValueError: it cannot be read.
    """
    try:
      return self._system.open(self._inner(number), 'rb')
    except OSError as error:
      raise _unreadable(self.path(number), error) from error

  def copy(self, number: int, folder: str) -> str:
    """The path of a file on this machine: its own, or that of a copy.

    Args:
      number: of the file.
      folder: for copies of files that lie elsewhere; of every version one is made.

    Raises:
      ValueError: it lies elsewhere and cannot be copied.
    """
    if self.local:
      return self._inner(number)
    path, inner = self.path(number), self._inner(number)
    if not folder:
      raise ValueError(
        f'expected a folder for copies of files elsewhere, found none for {path}; name '
        'one on a disk of this machine'
      )
    folder = os.path.expanduser(folder)
    try:
      version = source.digest([path, self._system.ukey(inner)])
      target = os.path.join(folder, f'{version}-{posixpath.basename(path)}')
      if not os.path.exists(target):
        part = f'{target}.{os.getpid()}-{threading.get_ident()}'
        os.makedirs(folder, exist_ok=True)
        self._system.get_file(inner, part)
        os.replace(part, target)
    except OSError as error:
      raise _unreadable(path, error) from error
    return target

  def map(self, function: Callable[[int], T]) -> list[T]:
    """A function of every number, called in threads where files lie elsewhere."""
    with futures.ThreadPoolExecutor(1 if self.local else THREADS) as pool:
      return list(pool.map(function, range(len(self))))

  def listing(self) -> list[Any]:
    """Names and sizes, for a fingerprint."""
    return [list(self.names), list(self.sizes)]

  def _inner(self, number: int) -> str:
    return posixpath.join(self._root, self.names[number])

  def _told(self, inner: str) -> str:
    return inner if self.local else self._system.unstrip_protocol(inner)

  def _read(self, inner: str, start: int, end: int | None) -> bytes:
    for pause in (*PAUSES, None):
      try:
        return self._system.cat_file(inner, start, end)
      except GONE as error:
        raise _unreadable(self._told(inner), error) from error
      except OSError as error:
        if error.errno in ODD or pause is None:
          raise _failing(self._told(inner), error) from error
        time.sleep(pause)
    raise AssertionError


def find(path: str, suffixes: Sequence[str]) -> Files:
  """The files at a place whose names end in one of the suffixes.

  Raises:
    ValueError: no package reads such paths, nothing is there, or no such file, or one
      that is compressed as a whole.
  """
  system, place = _system(path)
  try:
    root, found = _look(system, place)
  except OSError as error:
    raise _unreadable(path, error) from error
  if found is None:
    raise ValueError(
      f'expected a file, a folder or a pattern, found nothing at {path}; check the path'
    )
  below = {name[len(root) :].lstrip('/'): size for name, size in found.items()}
  names = sorted(name for name in below if not _hidden(name))
  for name in names:
    if name.lower().endswith(_packed(suffixes)):
      raise ValueError(
        f'expected files that can be read at random, found {name} at {path}, which is '
        'compressed as a whole; decompress it'
      )
  names = [name for name in names if name.lower().endswith(tuple(suffixes))]
  if not names:
    raise ValueError(
      f'expected files that end in {", ".join(suffixes)}, found none among the '
      f'{len(below)} at {path}; check the path and the kind of data'
    )
  return Files(system, root, names, [below[name] for name in names])


def publish(local: str, path: str) -> None:
  """Puts a whole file in its place, so that nobody ever sees a part of it.

  Raises:
    ValueError: it cannot be put there.
  """
  system, inner = _system(path)
  try:
    if _is_local(system):
      os.replace(local, inner)
    else:  # a bucket shows an object when all of it is there
      system.put_file(local, inner)
      os.remove(local)
  except OSError as error:
    raise _unreadable(path, error) from error


def write(path: str, data: bytes) -> None:
  """Writes a small file, which others see whole or not at all.

  Raises:
    ValueError: it cannot be written.
  """
  system, inner = _system(path)
  try:
    if not _is_local(system):
      system.pipe_file(inner, data)
      return
    folder, name = posixpath.split(inner)
    part = posixpath.join(folder, f'.{name}.{os.getpid()}')
    os.makedirs(folder, exist_ok=True)
    with open(part, 'wb') as file:
      file.write(data)
  except OSError as error:
    raise _unreadable(path, error) from error
  publish(part, path)


def exists(path: str) -> bool:
  """Whether there is a file at a path."""
  system, inner = _system(path)
  return system.isfile(inner)


def _system(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
  """The file system of a path, and what the path is called there."""
  try:
    system, inner = fsspec.core.url_to_fs(path)
  except ImportError as error:
    raise ValueError(
      f'expected the package that reads {path}, found none ({source.one_line(error)}); '
      'pip install it'
    ) from error
  except ValueError as error:
    raise ValueError(
      f'expected a local path or a URL that fsspec knows, found {path} '
      f'({source.one_line(error)}); check what stands before ://'
    ) from error
  return system, inner.rstrip('/') or '/'


def _look(
  system: fsspec.AbstractFileSystem, place: str
) -> tuple[str, dict[str, int] | None]:
  """The folder of all, and every file's size by its path; None: nothing is there."""
  if system.isfile(place):
    return posixpath.dirname(place), {place: system.info(place)['size']}
  if system.isdir(place):
    return place, dict(_below(system, place))
  if any(sign in place for sign in PATTERN):
    found = system.glob(place, detail=True)
    first = min(place.find(sign) for sign in PATTERN if sign in place)
    root = posixpath.dirname(place[:first])
    return root, {
      name: info['size']
      for name, info in found.items()
      if info['type'] == 'file' or (info.get('islink') and not system.isdir(name))
    }
  return place, None


def _below(system: fsspec.AbstractFileSystem, folder: str) -> Iterator[tuple[str, int]]:
  """Paths and sizes of the files in a folder."""
  if _is_local(system):
    yield from _walk(folder, frozenset())
    return
  for name, info in system.find(folder, detail=True).items():
    yield name, info['size']


def _walk(folder: str, above: frozenset[str]) -> Iterator[tuple[str, int]]:
  """The same on this machine, fast; a link back to a folder above ends there."""
  above = above | {os.path.realpath(folder)}
  with os.scandir(folder) as entries:
    for entry in entries:
      if entry.name.startswith('.'):
        continue
      if entry.is_dir():
        if not entry.is_symlink() or os.path.realpath(entry) not in above:
          yield from _walk(entry.path, above)
      elif entry.is_file():
        yield entry.path, entry.stat().st_size
      elif entry.is_symlink() and not os.path.exists(entry):
        yield entry.path, 0  # broken: told of when it is read


def _is_local(system: fsspec.AbstractFileSystem) -> bool:
  return isinstance(system, fsspec.implementations.local.LocalFileSystem)


def _hidden(name: str) -> bool:
  return any(part.startswith('.') for part in name.split('/'))


def _packed(suffixes: Sequence[str]) -> tuple[str, ...]:
  tarball = ('.tgz',) if '.tar' in suffixes else ()
  return tarball + tuple(kind + packed for kind in suffixes for packed in COMPRESSED)


def _failing(path: str, error: OSError) -> Exception:
  """A ValueError for what is wrong with a name, an OSError for what fails around it."""
  if error.errno in ODD:
    return _unreadable(path, error)
  return OSError(
    f'expected to read {path}, found {source.one_line(error) or type(error).__name__} '
    f'{len(PAUSES) + 1} times; start again when the disk or the network is back'
  )


def _unreadable(path: str, error: OSError) -> ValueError:
  reason = error.strerror or source.one_line(error) or type(error).__name__
  return ValueError(
    f'expected a readable file, found {path}: {reason}; check that it is there and '
    'that you may read it'
  )
