"""Where the time of a run goes, each second to one account, over all its restarts.

  begin       until the first step: state made or restored, data set up
  compile     programs, wherever they are needed first
  data        waited for the next batch
  step        taking steps, and waiting for the devices that take them
  save        held up by checkpoints; writing them goes on beside the steps
  evaluation  between steps
  lost        steps that a kill threw away, to be taken again
  before      earlier stages of the run

Goodput is the share of `step`. Time in which no process runs is not known here.
"""

import collections
import contextlib
import time
from collections.abc import Iterator, Mapping

import jax

COMPILING = '/jax/core/compile/'
_OPEN: list['Account'] = []


class Account:
  """Counts seconds; a context manager that also hears of compilations."""

  def __init__(self) -> None:
    self._spent: collections.Counter[str] = collections.Counter()
    self._on = ['begin']
    self._since = time.monotonic()

  def __enter__(self) -> 'Account':
    _listen()
    _OPEN.append(self)
    return self

  def __exit__(self, *error: object) -> None:
    _OPEN.remove(self)

  @contextlib.contextmanager
  def on(self, what: str) -> Iterator[None]:
    """What is done within goes to another account."""
    self._turn()
    self._on.append(what)
    try:
      yield
    finally:
      self._turn()
      self._on.pop()

  def add(self, seconds: Mapping[str, float]) -> None:
    """Seconds by account, of earlier parts of the run or of work to be done again."""
    self._spent.update(seconds)

  def compiled(self, seconds: float) -> None:
    """Seconds just spent on compiling, taken from the account that is open."""
    self._spent['compile'] += seconds
    self._spent[self._on[-1]] -= seconds

  @property
  def seconds(self) -> dict[str, float]:
    """By account."""
    self._turn()
    return {name: max(value, 0.0) for name, value in sorted(self._spent.items())}

  @property
  def total(self) -> float:
    """Seconds of the whole run."""
    return sum(self.seconds.values())

  def _turn(self) -> None:
    now = time.monotonic()
    self._spent[self._on[-1]] += now - self._since
    self._since = now


def shares(seconds: Mapping[str, float]) -> str:
  """`step 93.1 %, compile 4.0 %, ...`, largest first."""
  whole = sum(seconds.values()) or 1.0
  ordered = sorted(seconds.items(), key=lambda item: -item[1])
  return ', '.join(f'{name} {100 * value / whole:.1f} %' for name, value in ordered)


_listening = False


def _listen() -> None:
  """Registers with JAX once for all accounts: it cannot be taken back."""
  global _listening
  if not _listening:
    jax.monitoring.register_event_duration_secs_listener(_heard)
  _listening = True


def _heard(event: str, seconds: float, **details: object) -> None:
  del details
  if event.startswith(COMPILING):
    for account in _OPEN[-1:]:
      account.compiled(seconds)
