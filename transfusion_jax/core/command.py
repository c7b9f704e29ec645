"""What all commands share: flags, user errors on one line, exit codes.

0: done. 1: a bug, with its traceback. 2: something the user can mend, said in one line.
42 and 130: stopped by SIGTERM or Ctrl-C after a save (`training/preemption.py`).
"""

import contextlib
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterator

from absl import flags
from ml_collections import ConfigDict, config_flags

from transfusion_jax.core import log

FLAG_ERRORS = (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError)
"""What absl and ml_collections raise of flags and config files that are wrong."""


class Exit(Exception):
  """Ends a command with an exit code and, by choice, a last line."""

  def __init__(self, code: int, message: str = ''):
    super().__init__(message)
    self.code, self.message = code, message


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
  """Turns the errors that a user can mend into one line and exit code 2.

  Meant for what happens before any device works; an error of the same type further on
  is a bug and keeps its traceback.
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
    config: makes of the other flags a config that `--config.NAME=...` may change, where
      it does not come from a file; it becomes `flags.FLAGS.config`.
  """
  log.setup()
  try:
    _parse(sys.argv, config)
    main()
  except Exit as error:
    sys.exit(tell(error))


def tell(error: BaseException) -> int:
  """Says on standard error how a command ended, and returns its exit code."""
  if not isinstance(error, Exit):
    traceback.print_exception(error)
    return 130 if isinstance(error, KeyboardInterrupt) else 1
  if error.message:
    print(error.message, file=sys.stderr, flush=True)
  return error.code


def check_folder(flag: str, file: str) -> None:
  """Checks that a file which a flag names can be put where it says.

  Raises:
    ValueError: there is no such folder.
  """
  if not pathlib.Path(file).resolve().parent.is_dir():
    raise ValueError(
      f'expected a folder for --{flag}={file}, found none; make it, or change the flag'
    )


def _parse(argv: list[str], config: Callable[[], ConfigDict] | None) -> None:
  if '--help' in argv[1:]:
    print(sys.modules['__main__'].__doc__, flags.FLAGS.main_module_help(), sep='\n')
    raise Exit(0)
  try:
    if config is not None:
      flags.FLAGS(argv, known_only=True)
      config_flags.DEFINE_config_dict('config', config(), lock_config=True)
    rest = flags.FLAGS(argv)
  except FLAG_ERRORS as error:
    raise Exit(2, f'error: {line(error)}') from error
  if rest[1:]:
    raise Exit(2, f'error: expected flags only, found {rest[1]!r}; flags begin with --')


def line(error: Exception) -> str:
  """What an error says, on one line."""
  text = (
    str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
  )
  return ' '.join(text.split())
