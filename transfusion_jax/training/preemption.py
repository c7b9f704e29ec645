"""Signals: a run that is asked to stop finishes its step, saves, and says how it
ended.

One process may be asked and all must stop behind the same step. Before a step each
tells the others what it was asked, and listens to what they said a step earlier, which
has arrived by then: nobody waits.
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
"""130: a person stopped it; 42: preempted, to be started again; 129: its terminal was
closed.
"""


class Stop:
  """Whether the run was asked to stop; a context manager that listens to signals.

  The first signal asks; a second Ctrl-C ends the process at once, as a person expects.
  One of several processes that fails within ends at once too: at a usual exit it would
  wait for the others, and they for it.
  """

  def __init__(self) -> None:
    self._asked = 0  # the signal that came here
    self._said: jax.Array | int = 0
    self._heard = 0  # the signal that came anywhere
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
    """Does what may be done another time; it ends as soon as this process is asked.

    Args:
      act: does not work with other processes, which would wait for it.
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
    """What the process should exit with; 0 if it was not asked to stop."""
    return EXIT_CODES[signal.Signals(self._heard)] if self._heard else 0

  def agreed(self) -> bool:
    """Whether to stop here, alike on all processes; asked before every step."""
    if jax.process_count() == 1:
      return self.settled()
    heard, self._said = self._said, processes.largest(self._asked)
    self._heard = int(heard)
    return self._heard > 0

  def settled(self) -> bool:
    """The same between two stages, where every process waits for the answer."""
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
  """Signals that ask a process to stop; one begun with nohup ignores SIGHUP."""
  nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
  return [number for number in EXIT_CODES if not (nohup and number == signal.SIGHUP)]


class _Cut(BaseException):
  """Goes from a signal to `Stop.unless_asked`, through whatever catches exceptions."""


def leave(number: int, frame: types.FrameType | None) -> None:
  """A handler for the time in which there is nothing to save yet."""
  del frame
  code = EXIT_CODES[signal.Signals(number)]
  raise command.Exit(code, 'stopped before the first step; the same command begins')
