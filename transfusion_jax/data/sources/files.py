"""Files of a corpus: on this machine, or wherever fsspec has a package that reads them.

A place is a file, a folder (with all that is below it, linked folders too) or a pattern
such as `shards/train-*.tar`; hidden files are left out. `gs://` wants the package
gcsfs, `s3://` wants s3fs.

The root of a place is the folder, that of the file, or the one before the first sign of
the pattern. What stands in a record may name files below the root and no others: not by
`..`, not by a link. A folder below the root in which a run keeps its checkpoints and
samples is left out, so that a run can write beside its own pictures and go on.
"""

import collections
import io
import os
import posixpath
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeVar

import fsspec
import fsspec.implementations.local

from transfusion_jax.core import paths
from transfusion_jax.data import regular_files
from transfusion_jax.data.sources import listing, source

THREADS = 16
PAUSES = (0.5, 2.0, 8.0)
"""Seconds before a read that failed is tried again."""

MOST_BYTES = 2**30
"""Largest number of bytes of a file that is read whole: an image, a text."""

RUNS = 'of a run (folders)'

GONE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)

T = TypeVar('T')


class Files:
  """The files of one place, by number, in the order of their names.

  Attributes:
    names: below the place, with slashes.
    sizes: in bytes.
    passed: other files there, counted by ending, and folders of runs; no hidden ones.
  """

  def __init__(
    self,
    system: fsspec.AbstractFileSystem,
    root: str,
    names: Sequence[str],
    sizes: Sequence[int],
    passed: Mapping[str, int],
  ):
    """Args: system: of files; root: folder of all; names, sizes, passed: as above."""
    self._system, self._root = system, root
    self.names, self.sizes, self.passed = tuple(names), tuple(sizes), dict(passed)

  def __len__(self) -> int:
    return len(self.names)

  @property
  def local(self) -> bool:
    """True if the files are on this machine."""
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

    Args:
      number: of the file that names it.
      relative: its name; nothing in it is expanded.

    Raises:
      ValueError: it is missing, cannot be read, is no regular file, or does not lie
        below the root, links followed.
    """
    path = self._beside(number, relative)
    return source.not_empty(self._read(path, 0, None), self._told(path))

  def _beside(self, number: int, relative: str) -> str:
    """The path of a file that another one names."""
    folder, name = posixpath.dirname(self._inner(number)), relative
    root = self._told(self._root).rstrip('/') + '/'
    if name.startswith('file://'):
      name = name.removeprefix('file://')
    elif paths.is_url(name) and not self.local and name.startswith(root):
      folder, name = self._root, name.removeprefix(root)
    elif paths.is_url(name):
      raise ValueError(
        f'expected the name of a file below {root[:-1]}, found the URL {name[:200]}; '
        'download what it names (img2dataset does many) and name the files'
      )
    path = posixpath.normpath(posixpath.join(folder, name))
    if '\0' in name or not (
      listing.inside(path, self._root)
      and (not self.local or listing.really_inside(path, self._root, folder))
    ):
      raise ValueError(
        f'expected the name of a file below {root[:-1]}, found {relative[:200]!r}; '
        'move the file there, or give a folder that holds both as the path'
      )
    return path

  def open(self, number: int) -> io.IOBase:
    """A file to read in order, or here and there.

    Raises:
      ValueError: it cannot be read.
    """
    try:
      if self.local:
        regular_files.check(self.path(number), os.stat(self._inner(number)))
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
    folder = str(paths.local(folder, 'the directory of copies'))
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
        if self.local:
          return regular_files.read(inner, MOST_BYTES, start, end)
        return self._system.cat_file(inner, start, end)
      except GONE as error:
        raise _unreadable(self._told(inner), error) from error
      except OSError as error:
        if error.errno in listing.ODD or pause is None:
          raise _failing(self._told(inner), error) from error
        time.sleep(pause)
    raise AssertionError


def find(path: str, suffixes: Sequence[str], otherwise: Sequence[str] = ()) -> Files:
  """The files at a place whose names end in one of the suffixes.

  Args:
    path: of the place.
    suffixes: in small letters; `/name.x` is a whole name.
    otherwise: suffixes that count if there is no file with those.

  Raises:
    ValueError: no package reads such paths, nothing is there, or no such file, or one
      that is compressed as a whole.
  """
  system, place = _system(path)
  try:
    root, found, runs = listing.look(system, _is_local(system), place)
  except OSError as error:
    raise _unreadable(error.filename or path, error) from error
  if found is None:
    there = _is_local(system) and os.path.lexists(place)
    what = 'a link to nothing or something else' if there else 'nothing'
    raise ValueError(
      f'expected a file, a folder or a pattern, found {what} at {path}; check the path'
    )
  below = {name[len(root) :].lstrip('/'): size for name, size in found.items()}
  below = {name: below[name] for name in sorted(below) if not listing.hidden(name)}
  names = [name for name in below if listing.ends(name, suffixes)]
  if otherwise and not names and any(listing.ends(name, otherwise) for name in below):
    return find(path, otherwise)
  for name in below:
    if listing.ends(name, listing.packed((*suffixes, *otherwise))):
      raise ValueError(
        f'expected files that can be read at random, found {name} at {path}, which is '
        'compressed as a whole; decompress it'
      )
  others = below.keys() - set(names)
  passed = collections.Counter(listing.ending(name) for name in others)
  if not names:
    kinds = ', '.join(each.removeprefix('/') for each in (*suffixes, *otherwise))
    there = ', '.join(f'{n} {ending}' for ending, n in passed.most_common(5))
    raise ValueError(
      f'expected files that end in {kinds}, found none among the {len(below)} at {path}'
      f'{f" ({there})" * bool(there)}; check the path and the kind of data'
    )
  passed.update({RUNS: runs} if runs else {})
  return Files(system, root, names, [below[name] for name in names], passed)


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
  """True if there is a file at a path."""
  system, inner = _system(path)
  return system.isfile(inner)


def _system(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
  """The file system of a path, and what the path is called there."""
  path = paths.anywhere(path, 'a source')
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


def _is_local(system: fsspec.AbstractFileSystem) -> bool:
  return isinstance(system, fsspec.implementations.local.LocalFileSystem)


def _failing(path: str, error: OSError) -> Exception:
  """A ValueError for what is wrong with a name, an OSError for what fails around it."""
  if error.errno in listing.ODD:
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
