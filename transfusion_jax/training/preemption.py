"""Stop signals: a run finishes its step, saves, and exits with a code for the reason.

A signal may reach a single process, but all must stop after the same step. Before every
step each process sends the signal it has received to the others, and reads what they
sent one step earlier, which has arrived by then: no process waits.
"""

import os
import signal
import sys
import types
from collections.abc import Callable

import jax

from transfusion_jax.core import command, log
from transfusion_jax.training import processes

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 42, signal.SIGHUP: 129}
"""Exit codes: 130 if stopped by a person, 42 if preempted and to be restarted, 129 if
the terminal was closed.
"""


class Stop:
  """Stop request of a run: a context manager that handles signals.

  The first signal requests a stop; a second Ctrl-C ends the process at once. If one of
  several processes fails within the context, it ends at once too: a normal exit would
  wait for the others, and they for it.
  """

  def __init__(self) -> None:
    self._asked = 0  # signal received by this process
    self._said: jax.Array | int = 0
    self._heard = 0  # signal received by any process
    self._before: dict[int, object] = {}
    self._cuttable = False

  def __enter__(self) -> 'Stop':
    for number in heeded():
      self._before[number] = signal.signal(number, self._listen)
    return self

  def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)
    stopped = isinstance(error, command.Exit) and error.code in EXIT_CODES.values()
    if error is not None and not stopped and jax.process_count() > 1:
      code = command.tell(error)
      sys.stdout.flush()
      os._exit(code)

  def unless_asked(self, act: Callable[[], None]) -> None:
    """Calls a function that may be skipped; a stop request interrupts it.

    Args:
      act: function without communication between processes, which would wait for it.
    """
    if self._asked:
      return
    self._cuttable = True
    try:
      act()
    except _Cut:
      log.info('asked to stop: what was under way between two steps is left')
    finally:
      self._cuttable = False

  @property
  def exit_code(self) -> int:
    """Exit code of the process; 0 without a stop request."""
    return EXIT_CODES[signal.Signals(self._heard)] if self._heard else 0

  def agreed(self) -> bool:
    """True if all processes are to stop before this step."""
    if jax.process_count() == 1:
      return self.settled()
    heard, self._said = self._said, processes.largest(self._asked)
    self._heard = int(heard)
    return self._heard > 0

  def settled(self) -> bool:
    """True if any process was asked to stop; waits for all, so between stages only."""
    self._heard = int(processes.largest(self._asked))
    return self._heard > 0

  def _listen(self, number: int, frame: types.FrameType | None) -> None:
    del frame
    if self._asked and number == signal.SIGINT:
      raise KeyboardInterrupt
    self._asked = number
    if self._cuttable:
      self._cuttable = False
      raise _Cut


def heeded() -> list[signal.Signals]:
  """Signals that request a stop; without SIGHUP if started with nohup."""
  nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
  return [number for number in EXIT_CODES if not (nohup and number == signal.SIGHUP)]


class _Cut(BaseException):
  """Interruption of `Stop.unless_asked`; not an Exception, lest it be caught."""


def leave(number: int, frame: types.FrameType | None) -> None:
  """Signal handler for the time before there is anything to save."""
  del frame
  code = EXIT_CODES[signal.Signals(number)]
  raise command.Exit(code, 'stopped before the first step; the same command begins')
