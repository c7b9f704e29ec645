"""Files that a user names: on disk, or inside an installed package."""

import importlib.util
import os
import pathlib

from transfusion_jax.core import paths
from transfusion_jax.data import regular_files

MOST_BYTES = 2**30
"""Largest number of bytes of a file that is read whole."""


def read(name: str | os.PathLike[str], what: str) -> bytes:
  """The content of a file.

  Args:
    name: a path, or `package:PACKAGE/FILE` for a file that came with a Python package.
      The package is looked for and not imported: that may take seconds, and needs
      whatever it depends on.
    what: what is expected there, for messages: 'a picture file'.

  Raises:
    ValueError: there is no such package or file, it is no regular file, or there is
      nothing in it.
  """
  try:
    data = regular_files.read(str(_path(str(name), what)), MOST_BYTES)
  except OSError as error:
    raise ValueError(
      f'expected {what}, found {name}: {error.strerror}; check the path'
    ) from error
  if not data:
    raise ValueError(f'expected {what}, found {name}: an empty file; get it once more')
  return data


def _path(name: str, what: str) -> pathlib.Path:
  if not name.startswith(paths.PACKAGE):
    return paths.local(name, what)
  package, _, inside = name.removeprefix(paths.PACKAGE).partition('/')
  # Looking for a module inside a package would import the package.
  spec = importlib.util.find_spec(package) if package.isidentifier() else None
  if spec is None or not spec.submodule_search_locations:
    raise ValueError(
      f'expected the package of {name}, found {package!r} not installed; '
      f'pip install {package.replace("_", "-")}'
    )
  return pathlib.Path(next(iter(spec.submodule_search_locations)), inside)
