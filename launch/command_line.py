"""Command lines of launchers: flags, a command after `--`, one-line errors."""

import argparse
import contextlib
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence

EXAMPLE = '-- python -m transfusion_jax.train --config=FILE --workdir=DIR'
RETRY = 42
"""Exit code of a run that was preempted: it is saved, and to be restarted."""

USER_ERROR = 2
"""Exit code of a run whose command or config is wrong: not to be restarted."""

MOST = 2**16
"""Largest value of flags that count slices, processes or attempts."""

_MISSING = 'the following arguments are required: '
_OUT_OF_RANGE = re.compile(r'argument (--\S+): (from .*)', re.DOTALL)
_NAME = re.compile(r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?')
"""Valid names, short enough for Kubernetes to append numbers of slices and hosts."""


class Parser(argparse.ArgumentParser):
  """Parser of a launcher's flags; errors are one line and exit code 2."""

  def __init__(self, module: str, description: str, usage: str):
    """Creates a parser with the flag `--dry-run`.

    Args:
      module: name of the module, as after `python -m`.
      description: text for `--help`.
      usage: usage of the flags, without `--dry-run` and the command.
    """
    super().__init__(
      prog=f'python -m {module}',
      description=description,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      usage=f'%(prog)s {usage} [--dry-run] -- COMMAND',
      allow_abbrev=False,
    )
    self.add_argument('--dry-run', action='store_true', help='print what would run')

  def read(self, argv: Sequence[str]) -> argparse.Namespace:
    """Parses the flags; the words after `--` become `command`."""
    split = argv.index('--') if '--' in argv else len(argv)
    asked = self.parse_args(argv[:split])
    asked.command = list(argv[split + 1 :])
    if not asked.command:
      self.error(f'expected a command behind --, found none; for example {EXAMPLE}')
    return asked

  def add_cluster(self, restarts: int) -> None:
    """Adds the flags of a run in a cluster.

    Args:
      restarts: default of `--restarts`.
    """
    self.add_argument('--name', required=True, help='of the run')
    self.add_argument('--topology', required=True, help='for example v5e:16x16')
    self.add_argument(
      '--slices', type=whole(1, MOST), default=1, help='of that topology'
    )
    self.add_argument('--image', required=True, help='with this code installed')
    self.add_argument('--spot', action='store_true', help='cheap, may be taken back')
    self.add_argument(
      '--restarts', type=whole(0, MOST), default=restarts, help='at most'
    )
    self.add_argument(
      '--grace', type=whole(1, MOST), default=120, help='seconds to step and save'
    )

  def need(self, program: str, way_out: str) -> None:
    """Ends with an error if a program is not installed."""
    if shutil.which(program) is None:
      self.error(f'expected the program {program}, found none on PATH; {way_out}')

  @contextlib.contextmanager
  def user_errors(self) -> Iterator[None]:
    """Reports a ValueError as a one-line error."""
    try:
      yield
    except ValueError as error:
      self.error(str(error))

  def error(self, message: str) -> None:
    if message.startswith(_MISSING):
      names = message.removeprefix(_MISSING)
      message = f'expected {names}, found none; --help says what they are'
    elif out := _OUT_OF_RANGE.fullmatch(message):
      message = f'expected {out[1]} {out[2]}'
    elif not message.startswith('expected '):
      message = f'expected flags as in --help, found {message}'
    self.exit(USER_ERROR, f'error: {message}\n')


def whole(low: int, high: int) -> Callable[[str], int]:
  """Argparse type of integers from `low` to `high`."""

  def parse(text: str) -> int:
    number = int(text) if re.fullmatch('-?[0-9]{1,18}', text) else None
    if number is None or not low <= number <= high:
      raise argparse.ArgumentTypeError(
        f'from {low} to {high}, found {text[:40]!r}; change it'
      )
    return number

  return parse


def shown(command: Sequence[str], variables: Mapping[str, str] | None = None) -> str:
  """Command as typed in a shell, after the environment variables that it gets."""
  given = [f'{name}={shlex.quote(value)}' for name, value in (variables or {}).items()]
  return ' '.join([*given, shlex.join(command)])


def check_name(name: str) -> None:
  """Checks that a name is valid for Google Cloud and Kubernetes.

  Raises:
    ValueError: it is not.
  """
  if not _NAME.fullmatch(name):
    raise ValueError(
      f'expected a name of at most 40 small letters, digits and -, found {name!r}; '
      'change --name'
    )


def check_remote(command: Sequence[str], hosts: int) -> None:
  """Checks that a command can run on other machines than this one.

  Args:
    command: program and arguments.
    hosts: number of hosts that run it together.

  Raises:
    ValueError: `--distributed` is missing, or `--workdir` is not an absolute path.
  """
  if hosts > 1 and '--distributed' not in command:
    raise ValueError(
      f'expected --distributed behind --, since {hosts} hosts run the command '
      'together, found none; add it'
    )
  place = _value(command, '--workdir')
  if place is not None and not place.startswith('/'):
    raise ValueError(
      'expected --workdir in a folder that all hosts mount, such as /runs/NAME, '
      f'found {place!r}; mount a file share or a bucket there'
    )


def _value(command: Sequence[str], flag: str) -> str | None:
  """Value of a flag, written as `--flag=value` or `--flag value`."""
  for index, word in enumerate(command):
    if word.startswith(f'{flag}='):
      return word.removeprefix(f'{flag}=')
    if word == flag and index + 1 < len(command):
      return command[index + 1]
  return None
