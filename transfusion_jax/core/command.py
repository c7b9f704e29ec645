"""Behaviour shared by all commands: flags, one-line user errors, exit codes.

Exit codes:
  0: success.
  1: a bug, with its traceback; or a disk or network failure in a run, in one line.
  2: an error that the user can fix, in one line, found before any device works.
  42, 129, 130: stopped by SIGTERM, SIGHUP or Ctrl-C after a save
    (`training/preemption.py`).
"""

import ast
import contextlib
import math
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterator

from absl import flags
from ml_collections import ConfigDict, config_flags

from transfusion_jax.core import log, paths, renamed

SEEDS = (0, 2**32 - 1)
"""Lowest and highest seed that a flag takes."""


class Exit(Exception):
  """Ends a command with an exit code and, by choice, a last line."""

  def __init__(self, code: int, message: str = ''):
    super().__init__(message)
    self.code, self.message = code, message


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
  """Turns errors that a user can fix into one line and exit code 2.

  Meant for checks before any device works. Later, an error of the same type is a bug
  and keeps its traceback.
  """
  try:
    yield
  except (ValueError, ImportError, OSError) as error:
    raise Exit(2, f'error: {line(error)}') from error


def run(
  main: Callable[[], None], *, config: Callable[[], ConfigDict] | None = None
) -> None:
  """Parses flags, runs a command and exits the process with its code.

  Args:
    main: the command.
    config: for commands without a config file: builds the config from the other flags.
      It becomes `flags.FLAGS.config`, and `--config.NAME=...` can change it.
  """
  log.setup()
  try:
    _parse(sys.argv, config)
    main()
  except (Exit, OSError) as error:
    sys.exit(tell(error))


def tell(error: BaseException) -> int:
  """Prints on standard error how a command ended; returns its exit code."""
  if isinstance(error, OSError):
    error = Exit(1, f'error: {line(error)}')
  if not isinstance(error, Exit):
    traceback.print_exception(error)
    return 130 if isinstance(error, KeyboardInterrupt) else 1
  if error.message:
    print(error.message, file=sys.stderr, flush=True)
  return error.code


def define_number(
  name: str,
  default: float | int | None,
  description: str,
  *,
  low: float | int | None = None,
  high: float | int | None = None,
) -> flags.FlagHolder:
  """Defines a flag that takes a finite number; `DEFINE_float` takes NaN as well.

  Args:
    name: name of the flag.
    default: value if the flag is not given.
    description: text for --help.
    low: smallest value allowed.
    high: largest value allowed.
  """
  holder = flags.DEFINE_float(
    name, default, description, lower_bound=low, upper_bound=high
  )
  flags.register_validator(
    holder,
    lambda value: value is None or math.isfinite(value),
    message=f'expected a number for --{name}, found NaN or infinity',
  )
  return holder


def output_file(flag: str, file: str) -> pathlib.Path:
  """Path of an output file given by a flag, checked to be writable.

  Raises:
    ValueError: its folder does not exist, it is a folder, or it is not writable.
  """
  path = paths.local(file, f'--{flag}')
  reason = ''
  if not path.parent.is_dir():
    reason = 'no such folder'
  elif path.is_dir():
    reason = 'a folder of that name'
  elif not os.access(path if path.exists() else path.parent, os.W_OK):
    reason = 'that it may not be written'
  if reason:
    raise ValueError(
      f'expected a file that can be written for --{flag}={file}, found {reason}; make '
      'the folder, or change the flag'
    )
  return path


def output_folder(flag: str, folder: str) -> pathlib.Path:
  """Path of an output folder given by a flag, created if absent, and writable.

  Raises:
    ValueError: it cannot be created, is a file, or is not writable.
  """
  path = paths.local(folder, f'--{flag}')
  try:
    path.mkdir(parents=True, exist_ok=True)
    reason = '' if os.access(path, os.W_OK) else 'that it may not be written'
  except FileExistsError:
    reason = 'a file of that name'
  except OSError as error:
    reason = error.strerror
  if reason:
    raise ValueError(
      f'expected a folder that can be written for --{flag}={folder}, found {reason}; '
      'change the flag'
    )
  return path


def _parse(argv: list[str], config: Callable[[], ConfigDict] | None) -> None:
  if '--help' in argv[1:]:
    print(sys.modules['__main__'].__doc__, flags.FLAGS.main_module_help(), sep='\n')
    raise Exit(0)
  try:
    if config is not None:
      flags.FLAGS(argv, known_only=True)
      config_flags.DEFINE_config_dict('config', config(), lock_config=True)
    rest = flags.FLAGS(argv)
  except Exception as error:  # a config file is a program: anything may be raised
    told = renamed.said(error, line(error), argv[1:]) or line(error)
    raise Exit(2, f'error: {_place(error)}{told}') from error
  if rest[1:]:
    raise Exit(2, f'error: expected flags only, found {rest[1]!r}; flags begin with --')


def line(error: BaseException) -> str:
  """Message of an error on one line; the name of its type if it has no message."""
  text = (
    str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
  )
  if text[:1] in ('"', "'"):  # the text of a KeyError within another error
    with contextlib.suppress(ValueError, SyntaxError):
      text = str(ast.literal_eval(text))
  return ' '.join(text.split()) or type(error).__name__


def _place(error: BaseException) -> str:
  """File and line of the config file that raised an error; empty if none did."""
  if isinstance(error, SyntaxError) and error.filename:
    return f'{error.filename}:{error.lineno}: {type(error).__name__}: '
  frames = traceback.extract_tb(error.__traceback__)
  ours = [frame for frame in frames if _of_user(frame.filename)]
  if not ours or isinstance(error, flags.Error):
    return ''
  return f'{ours[-1].filename}:{ours[-1].lineno}: {type(error).__name__}: '


def _of_user(file: str) -> bool:
  """True if a file belongs neither to an installed package nor to this one."""
  if not os.path.isfile(file):  # <frozen importlib._bootstrap>
    return False
  here = pathlib.Path(__file__).resolve().parents[1]
  path = pathlib.Path(file).resolve()
  library = any(part in ('site-packages', 'dist-packages') for part in path.parts)
  standard = path.is_relative_to(pathlib.Path(os.__file__).resolve().parent)
  return not (library or standard or path.is_relative_to(here))
