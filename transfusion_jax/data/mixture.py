"""Mixture of sources: exact shares, resumed from a few integers.

Every shard of the data mixes for itself. The next document comes from the source that
is furthest behind its share, measured in what the documents so far have filled: with
weights w and filled positions n, from the one with the least n / w. Shares are thus
exact to one document, whatever the lengths of documents.

Weights may change at given steps, or between two parts of a run. Counting then begins
anew, so that a source whose weight is raised does not catch up on what it had not been
meant to give.

Document k of shard v of V is document v + k V of its source's shuffled epochs: random
access, so that the state is a few integers for every source, and nothing that was read
ahead is part of it.

Broken documents are counted anew in every pass, which is as many documents as the
source has: one that is broken is broken every time, and counts once a pass. A document
that is sound but not for this stage (`documents.Unsuited`) is passed over and not
counted.
"""

import bisect
import collections
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from transfusion_jax.core import log
from transfusion_jax.data import documents

OTHER = -1
"""The phase of a state that was reached with other weights."""

NAMED = 20
"""Broken documents of a source and a shard whose names are logged."""

LEAST = 20
"""Broken documents of a source that a shard skips in every pass."""

PASSES = 20
"""Passes through a source in which a shard finds nothing before it gives up."""


said: set[str] = set()
"""Messages about documents that this process has logged, on any shard and in any stage.
"""


class Ticket(NamedTuple):
  """Origin of a sequence, to make it again: part of a document of a source."""

  source: str
  index: int
  part: int


@dataclasses.dataclass(frozen=True)
class Schedule:
  """A source's share against the others', step by step.

  Attributes:
    weights: one for every element of `since`.
    since: steps from which the weights hold; the first is 0.
  """

  weights: tuple[float, ...]
  since: tuple[int, ...]

  def __post_init__(self):
    steps = list(self.since)
    if len(self.weights) != len(steps) or steps[:1] != [0] or steps != sorted({*steps}):
      raise ValueError(
        'expected as many weights as steps in `since`, ascending from 0, found weights='
        f'{self.weights} and since={self.since}; use (1.0,) and (0,) for one weight'
      )
    sound = all(math.isfinite(weight) and weight >= 0 for weight in self.weights)
    if not sound or not any(self.weights):
      raise ValueError(
        f'expected weights of at least 0 and one above, found {self.weights}; raise '
        'one, or remove the source'
      )

  def weight(self, step: int) -> float:
    """The weight at a step."""
    return self.weights[bisect.bisect_right(self.since, step) - 1]


@dataclasses.dataclass(frozen=True)
class Member:
  """A source in the mixture.

  Attributes:
    make: the parts of the document at an index, always the same; a ValueError says that
      the document is broken, or (`documents.Unsuited`) of no use here.
    limit: documents that it gives in all, on all shards; None: without end.
    schedule: its share.
    size: documents of the source.
  """

  make: Callable[[int], Sequence[Any]]
  limit: int | None
  schedule: Schedule
  size: int


class Mixture:
  """The documents of one shard."""

  def __init__(
    self,
    members: Mapping[str, Member],
    *,
    shard: int,
    shards: int,
    broken: float,
    pool: futures.Executor | None,
    ahead: int,
  ):
    """Sets up the mixture; nothing is made yet.

    Args:
      members: by name.
      shard: which of `shards` this is.
      shards: in all.
      broken: share of a source's documents that may be broken.
      pool: makes documents ahead; None: they are made when they are asked for.
      ahead: documents of each source that are made ahead.
    """
    self._members, self._shard, self._shards = members, shard, shards
    self._allowed, self._pool, self._depth = broken, pool, ahead
    self._last: tuple[Any, Sequence[Any]] = (None, ())
    self._changes = sorted(
      {step for m in members.values() for step in m.schedule.since}
    )
    self._phase = 0
    self._counts = {
      name: {'next': 0, 'filled': 0, 'pass': 0, 'broken': 0} for name in members
    }
    self._idle = dict.fromkeys(members, 0)  # documents since the last that was of use
    self._ahead = {name: collections.deque() for name in members}

  def draw(self, step: int) -> list[tuple[Ticket, Any]]:
    """The next document in parts, and where they come from; nothing at the very end.

    Raises:
      ValueError: too many documents of a source are broken, or none is of use.
    """
    self._enter(bisect.bisect_right(self._changes, step) - 1)
    while (name := self._due(step)) is not None:
      index = self._counts[name]['next']
      self._counts[name]['next'] = index + 1
      try:
        parts = self._made(name, index)
      except ValueError as error:
        self._leave_out(name, error)
        continue
      self._idle[name] = 0
      self._counts[name]['filled'] += sum(map(len, parts))
      return [(Ticket(name, index, k), part) for k, part in enumerate(parts)]
    return []

  def fetch(self, ticket: Sequence[Any]) -> Any | None:
    """Again what was drawn before; None where sources or rows are not what they were,
    and there is no such document or part any more.
    """
    name, index, part = ticket
    if name not in self._members:
      return None
    if self._last[0] != (name, index):  # parts of a document wait side by side
      self._last = (name, index), self._make(name, index)
    parts = self._last[1]
    return parts[part] if part < len(parts) else None

  def get_state(self) -> dict[str, Any]:
    """State, for JSON: for each source the next document, the positions filled since
    the weights changed, and the pass with its broken documents.
    """
    counts = {name: dict(count) for name, count in self._counts.items()}
    return {'phase': self._phase, 'weights': self._weights(), 'sources': counts}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes on from a state; a source that it does not know begins."""
    for name, count in self._counts.items():
      known = state['sources'].get(name, {})
      count.update({key: int(known.get(key, 0)) for key in count})
      self._ahead[name].clear()
      self._idle[name] = 0
    same = state['weights'] == self._weights()
    self._phase = int(state['phase']) if same else OTHER

  def _weights(self) -> dict[str, list[list[float]]]:
    """The schedule of every source, for JSON."""
    return {
      name: [list(schedule.weights), list(map(float, schedule.since))]
      for name, schedule in ((n, m.schedule) for n, m in self._members.items())
    }

  def _enter(self, phase: int) -> None:
    if phase != self._phase:
      self._phase = phase
      for count in self._counts.values():
        count['filled'] = 0

  def _due(self, step: int) -> str | None:
    behind = {}
    for name, member in self._members.items():
      weight = member.schedule.weight(step)
      if weight and not self._ended(name, self._counts[name]['next']):
        behind[name] = self._counts[name]['filled'] / weight
    return min(behind, key=behind.__getitem__) if behind else None

  def _ended(self, name: str, index: int) -> bool:
    limit = self._members[name].limit
    return limit is not None and self._shard + self._shards * index >= limit

  def _make(self, name: str, index: int) -> Sequence[Any]:
    return self._members[name].make(self._shard + self._shards * index)

  def _made(self, name: str, index: int) -> Sequence[Any]:
    if self._pool is None:
      return self._make(name, index)
    ahead = self._ahead[name]
    for later in range(index + len(ahead), index + self._depth + 1):
      if not self._ended(name, later):
        ahead.append(self._pool.submit(self._make, name, later))
    return ahead.popleft().result()

  def _leave_out(self, name: str, error: ValueError) -> None:
    member = self._members[name]
    if isinstance(error, documents.Unsuited):
      if (known := f'{name}: {error.reason}') not in said:
        said.add(known)
        log.info(f'data.sources.{name}: passed over: {error}')
    else:
      self._skip_broken(name, error)
    self._idle[name] += 1
    if self._idle[name] > max(LEAST, PASSES * member.size):
      raise ValueError(
        f'expected something of use in data.sources.{name}, found nothing in '
        f'{self._idle[name]} documents, the last: {error}; mend it, or leave it out'
      )

  def _skip_broken(self, name: str, error: ValueError) -> None:
    count, member = self._counts[name], self._members[name]
    number, place = divmod(count['next'] - 1, member.size)
    if number != count['pass']:
      count.update({'pass': number, 'broken': 0})
    count['broken'] += 1
    if count['broken'] <= NAMED and (line := f'{name}: left out: {error}') not in said:
      said.add(line)
      log.warning(line)
    of = member.size if number else place + 1
    check_broken(name, error, count['broken'], of=of, allowed=self._allowed)


def skip_broken(
  name: str, error: ValueError, broken: int, *, of: int, allowed: float
) -> None:
  """Leaves a broken document out; args and errors as `check_broken`."""
  if broken <= NAMED:
    log.warning(f'{name}: left out: {error}')
  check_broken(name, error, broken, of=of, allowed=allowed)


def check_broken(
  name: str, error: ValueError, broken: int, *, of: int, allowed: float
) -> None:
  """Checks that not too many documents are broken.

  Args:
    name: of the source.
    error: what is wrong with the last of them.
    broken: documents so far, with this one.
    of: documents so far, sound and broken.
    allowed: share that may be broken.

  Raises:
    ValueError: it is one too many.
  """
  if broken > max(LEAST, allowed * of):
    raise ValueError(
      f'expected at most {allowed:.2%} broken documents in data.sources.{name}, found '
      f'{broken} of the first {of} of a shard, the last: {error}; mend the source, or '
      'raise data.broken'
    )
