"""Paths given by users in flags, configs and requests.

A leading `~` is the user's home. A relative path is relative to the folder in which the
command was started; it is made absolute, so that it names the same file when a record
of it is read later. Only some readers accept a URL (`gs://...`); all others refuse it
before anything is written.
"""

import os
import pathlib
import re

PACKAGE = 'package:'
"""Prefix of the name of a file that is part of an installed Python package."""

_URL = re.compile(
  r'[A-Za-z][A-Za-z0-9+.-]*:/|[a-z0-9+]+::'
  r'|(?:gs|gcs|s3|s3a|az|abfs|adl|hdfs|https?|ftp|file):'
)
_LOCAL = 'file:///'


def is_url(path: str) -> bool:
  """True if a path is a URL such as `gs://bucket/folder`."""
  return bool(_URL.match(path)) and not path.startswith(_LOCAL)


def local(path: str | os.PathLike[str], what: str) -> pathlib.Path:
  """Absolute path of a file or folder on this machine.

  Args:
    path: path as given by the user.
    what: flag or field that holds it, for error messages, for example `--workdir`.

  Raises:
    ValueError: the path is empty, a URL, or not a valid file name.
  """
  name = os.fspath(path)
  if not name:
    raise ValueError(f'expected a path for {what}, found none; name one')
  if is_url(name) or name.startswith(PACKAGE):
    raise ValueError(
      f'expected a path on this machine for {what}, found {name}; name a local folder '
      'or one that is mounted'
    )
  return pathlib.Path(_absolute(name, what))


def anywhere(path: str, what: str) -> str:
  """Path for readers that accept URLs: URLs and `package:` names stay unchanged.

  Args:
    path: path as given by the user; empty stays empty.
    what: see `local`.

  Raises:
    ValueError: the path is not a valid file name.
  """
  if not path or is_url(path) or path.startswith(PACKAGE):
    return path
  return _absolute(path, what)


def _absolute(name: str, what: str) -> str:
  name = name.removeprefix(_LOCAL[:-1]) if name.startswith(_LOCAL) else name
  try:
    os.fsencode(name)
    name.encode()
    if '\0' in name:
      raise ValueError('a NUL character')
    whole = os.path.expanduser(name)
    if whole.startswith('~'):
      raise ValueError('no user of that name')
    return os.path.abspath(whole)
  except ValueError as error:  # UnicodeEncodeError is one
    reason = 'not in UTF-8' if isinstance(error, UnicodeError) else error
    raise ValueError(
      f'expected a path for {what}, found {name!r} ({reason}); rename the file or '
      'folder, or write ./ before it'
    ) from error
