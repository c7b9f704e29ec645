"""Paths that a user gives, in a flag, a config, a request: one way to read them.

A leading `~` is the user's home. A relative path is taken from the folder that the
command was started in and made absolute, so that it names the same file for whoever
finds it in a record later. A URL (`gs://...`) names a place that only some readers
know; everybody else refuses it before anything is made.
"""

import os
import pathlib
import re

PACKAGE = 'package:'
"""Begins the name of a file that came with an installed Python package."""

_URL = re.compile(
  r'[A-Za-z][A-Za-z0-9+.-]*:/|[a-z0-9+]+::'
  r'|(?:gs|gcs|s3|s3a|az|abfs|adl|hdfs|https?|ftp|file):'
)
_LOCAL = 'file:///'


def is_url(path: str) -> bool:
  """Whether a path names a place by protocol, such as `gs://bucket/folder`."""
  return bool(_URL.match(path)) and not path.startswith(_LOCAL)


def local(path: str | os.PathLike[str], what: str) -> pathlib.Path:
  """The absolute path of a file or folder on this machine.

  Args:
    path: as the user gave it.
    what: the flag or field that gave it, for messages: `--workdir`.

  Raises:
    ValueError: it is empty, a URL, or a name that no file can have.
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
  """A path for readers that know URLs: those and `package:` stay as they are.

  Args:
    path: as the user gave it; empty stays empty.
    what: as `local`.

  Raises:
    ValueError: it is a name that no file can have.
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
