"""Goodput: the time of a run by account, over all its restarts.

  begin       before the first step: state created or restored, data set up
  compile     compilation of all programs
  data        waiting for the next batch
  step        training steps, and waiting for the devices
  save        blocked by checkpoints; writing itself overlaps with steps
  evaluation  evaluation between steps
  lost        steps lost when the run was killed, to be repeated
  before      earlier stages of the run

Goodput is the share of `step`. Time during which no process runs is not included.
"""

import collections
import contextlib
import time
from collections.abc import Iterator, Mapping

import jax

COMPILING = '/jax/core/compile/'
_OPEN: list['Account'] = []


class Account:
  """Seconds of a run by account; a context manager that also counts compilations."""

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
    """Counts the time inside the context on another account."""
    self._turn()
    self._on.append(what)
    try:
      yield
    finally:
      self._turn()
      self._on.pop()

  def add(self, seconds: Mapping[str, float]) -> None:
    """Adds seconds by account, of earlier parts of the run or of lost steps."""
    self._spent.update(seconds)

  def compiled(self, seconds: float) -> None:
    """Moves seconds just spent on compiling from the open account to `compile`."""
    self._spent['compile'] += seconds
    self._spent[self._on[-1]] -= seconds

  @property
  def seconds(self) -> dict[str, float]:
    """Seconds by account."""
    self._turn()
    return {name: max(value, 0.0) for name, value in sorted(self._spent.items())}

  @property
  def total(self) -> float:
    """Seconds of all accounts together."""
    return sum(self.seconds.values())

  def _turn(self) -> None:
    now = time.monotonic()
    self._spent[self._on[-1]] += now - self._since
    self._since = now


def shares(seconds: Mapping[str, float]) -> str:
  """Text `step 93.1 %, compile 4.0 %, ...`, largest share first."""
  whole = sum(seconds.values()) or 1.0
  ordered = sorted(seconds.items(), key=lambda item: -item[1])
  return ', '.join(f'{name} {100 * value / whole:.1f} %' for name, value in ordered)


_listening = False


def _listen() -> None:
  """Registers a listener with JAX, only once, as it cannot be removed."""
  global _listening
  if not _listening:
    jax.monitoring.register_event_duration_secs_listener(_heard)
  _listening = True


def _heard(event: str, seconds: float, **details: object) -> None:
  del details
  if event.startswith(COMPILING):
    for account in _OPEN[-1:]:
      account.compiled(seconds)
