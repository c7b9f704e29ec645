"""Folders that the processes of one run of all tests share, each made once."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Callable, Iterator

import pytest


def folder(
  temporary: pytest.TempPathFactory, name: str, make: Callable[[pathlib.Path], None]
) -> pathlib.Path:
  """Folder that `make` has filled, called by whichever process needs it first."""
  root = temporary.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    root = root.parent
  path, done = root / name, root / f'{name}.made'
  with _alone(root / f'{name}.lock'):
    if not done.exists():
      path.mkdir()  # what a failed attempt left is not built upon
      make(path)
      done.touch()
  return path


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[None]:
  with path.open('w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield
