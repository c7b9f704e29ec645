"""Packages and files that some measures need and the rest of the project does not."""

import importlib.util
import pathlib

from transfusion_jax.core import paths


def need(package: str, purpose: str) -> None:
  """Checks, without importing it, that a package is installed.

  Raises:
    ValueError: it is not.
  """
  if importlib.util.find_spec(package) is None:
    raise ValueError(
      f'expected the package {package} for {purpose}, found it not installed; pip '
      "install 'transfusion-jax[eval]', or remove the evaluator"
    )


def file(path: str, what: str) -> pathlib.Path:
  """A file that the config names.

  Raises:
    ValueError: there is none, or it is a URL.
  """
  if not path or not paths.local(path, what).is_file():
    raise ValueError(
      f'expected {what}, found no file {path!r}; get it once, and give its path'
    )
  return paths.local(path, what)
