"""Commands as a user gives them: in this process to be refused, or in one of their own.

What a flag does wrong is found before any device works, so that no process has to begin
for it: importing JAX takes longer than all such checks.
"""

import contextlib
import logging
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from absl import flags
from absl import logging as absl_logging

from transfusion_jax.core import log

ROOT = pathlib.Path(__file__).parents[2]
OURS = ('transfusion_jax', 'launch', 'tests')
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Ended(NamedTuple):
  """Exit code and output of a command."""

  returncode: int
  stdout: str
  stderr: str


def run(
  module: str, *flags: str, environment: dict[str, str], cwd: pathlib.Path = ROOT
) -> subprocess.CompletedProcess[str]:
  """Runs a command in a process of its own."""
  return subprocess.run(
    [sys.executable, '-m', module, *flags],
    cwd=cwd,
    env=environment,
    capture_output=True,
    text=True,
    timeout=600,
  )


def call(module: str, *flags: str) -> Ended:
  """Runs a command in this process, which afterwards is as it was before."""
  code = 0
  with (
    tempfile.TemporaryFile('w+', encoding='utf-8') as out,
    tempfile.TemporaryFile('w+', encoding='utf-8') as err,
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(err),
    _process_of_a_command([module, *flags]),
  ):
    try:
      runpy.run_module(module, run_name='__main__', alter_sys=True)
    except SystemExit as end:
      code = end.code or 0
    for stream in (out, err):
      stream.seek(0)
    return Ended(code, out.read(), err.read())


def refusal(module: str, *flags: str) -> str:
  """The one line in which a command says what the user can mend."""
  done = call(module, *flags)
  assert done.returncode == 2, done.stderr
  (line,) = done.stderr.strip().splitlines()
  return line


@contextlib.contextmanager
def _process_of_a_command(argv: Sequence[str]) -> Iterator[None]:
  """Arguments, flags, log and signals as a command finds them when it begins.

  Every command defines flags at its import, some of the same name as another's.
  """
  kept, argv_before = _taken(), sys.argv
  handlers, log.logger.handlers = log.logger.handlers, []
  level, propagate = log.logger.level, log.logger.propagate
  verbosity, signals = absl_logging.get_verbosity(), {}
  for number in SIGNALS:
    signals[number] = signal.getsignal(number)
  sys.argv = list(argv)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', DeprecationWarning)  # as Python does
      yield
  finally:
    sys.argv = argv_before
    _taken()
    flags.FLAGS.append_flag_values(kept)
    flags.FLAGS.unparse_flags()
    log.logger.handlers = handlers
    log.logger.setLevel(level or logging.NOTSET)
    log.logger.propagate = propagate
    absl_logging.set_verbosity(verbosity)
    for number, handler in signals.items():
      signal.signal(number, handler)


def _taken() -> flags.FlagValues:
  """Takes the flags of commands out of absl's, to be put back."""
  found = flags.FlagValues()
  for module, defined in flags.FLAGS.flags_by_module_dict().items():
    own = module.startswith(OURS) or module.endswith('.py')  # absl's name of __main__
    for flag in defined:
      if own or flag.name.startswith('config.'):
        found[flag.name] = flag
  flags.FLAGS.remove_flag_values(found)
  return found
