"""Signals: a run that is asked to stop finishes its step, saves, and says how it
ended.
"""

import signal
import types

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 42}
"""130: a person stopped it; 42: preempted, to be started again."""


class Stop:
  """Whether the run was asked to stop; a context manager that listens to signals.

  The first signal asks; a second Ctrl-C ends the process at once, as a person expects.
  """

  def __init__(self) -> None:
    self.signal: signal.Signals | None = None
    self._before: dict[int, object] = {}

  def __enter__(self) -> 'Stop':
    for number in EXIT_CODES:
      self._before[number] = signal.signal(number, self._listen)
    return self

  def __exit__(self, *error: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  @property
  def asked(self) -> bool:
    """True once a signal came."""
    return self.signal is not None

  @property
  def exit_code(self) -> int:
    """What the process should exit with; 0 if nothing came."""
    return EXIT_CODES[self.signal] if self.signal is not None else 0

  def _listen(self, number: int, frame: types.FrameType | None) -> None:
    del frame
    if self.asked and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.signal = signal.Signals(number)
