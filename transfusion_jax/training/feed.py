"""From the data iterator to the devices."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from transfusion_jax.core import axes, command, digest
from transfusion_jax.training import processes


@runtime_checkable
class Source(Protocol):
  """What is asked of a data iterator."""

  def __next__(self) -> Mapping[str, np.ndarray]:
    """The rows of the next batch that it was made for."""

  def get_state(self) -> dict[str, Any]:
    """Where it stands, as JSON."""

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes on from a state, or from several of them merged."""


@dataclasses.dataclass(frozen=True)
class Given:
  """What was given since this was last asked for.

  Attributes:
    digests: of every batch on all hosts, in sixteen hexadecimal digits.
    sizes: how much data was in every batch on all hosts.
    waited: seconds that the data was waited for.
    shares: of the sources in what this process has drawn.
  """

  digests: list[str]
  sizes: list[int]
  waited: float
  shares: dict[str, float]


class Feed:
  """Puts batches on the mesh, rows divided, and prepares them there.

  A process makes the rows that its devices hold and no others. They need not lie
  together, and several processes may hold the same: that is up to the mesh.
  """

  def __init__(
    self,
    source: Callable[[Sequence[int]], Source],
    mesh: Mesh,
    *,
    rows: int,
    state: dict[str, Any] | None,
    prepare: Callable[[dict[str, jax.Array], jax.Array], Any],
    count: Callable[[Mapping[str, jax.Array]], jax.Array],
    shares: Callable[[dict[str, Any]], dict[str, float]],
    empty: Callable[[Mapping[str, np.ndarray]], bool],
    unit: str,
  ):
    """Sets up the feed.

    Args:
      source: makes an iterator over some rows of every batch, NumPy arrays by field.
      mesh: rows go over it as `axes.BATCH_SPEC` says.
      rows: of a whole batch.
      state: of an earlier feed, where this one goes on; None: the beginning.
      prepare: from the arrays on the devices, and a digest of theirs to draw keys from,
        to what the step takes, for example with pictures encoded as latents.
      count: how much data a batch holds, for the speed that is shown.
      shares: of the sources, from the state of the iterator.
      empty: whether some rows hold no data any more.
      unit: what `count` counts: 'tokens' or 'pictures'.
    """
    self._sharding, self._rows = NamedSharding(mesh, axes.BATCH_SPEC), rows
    held = self._sharding.addressable_devices_indices_map((rows,))
    self._here = rows_within(held.values(), rows)
    self._source = source(self._here)
    if state is not None:
      with command.user_errors():
        self._source.set_state(state)
    self._prepare, self._shares, self._empty = prepare, shares, empty
    self.unit = unit
    self._mark = jax.jit(lambda arrays: (digest.digest(arrays), count(arrays)))
    self._marks: list[tuple[jax.Array, jax.Array]] = []
    self._waited = 0.0

  def __next__(self) -> Any:
    """The next batch.

    Raises:
      StopIteration: no process has data any more; all find it at the same batch.
      command.Exit: the data is not what the user had promised.
    """
    began = time.monotonic()
    with command.user_errors():
      rows = next(self._source)
    self._waited += time.monotonic() - began
    arrays = {name: self._placed(array) for name, array in rows.items()}
    lanes, size = self._mark(arrays)
    if self._empty(rows) and not int(size):
      raise StopIteration
    self._marks.append((lanes, size))
    return self._prepare(arrays, lanes)

  def given(self) -> Given:
    """What was given since this was last asked for; waits for the devices."""
    marks, self._marks = jax.device_get(self._marks), []
    waited, self._waited = self._waited, 0.0
    digests = [digest.text(lanes) for lanes, _ in marks]
    shares = self._shares(self._source.get_state())
    return Given(digests, [int(size) for _, size in marks], waited, shares)

  def get_state(self) -> dict[str, Any]:
    """Where the data stands behind the last batch given, in all processes together."""
    return processes.together(self._source.get_state())

  def _placed(self, array: np.ndarray) -> jax.Array:
    def part(index: tuple[slice, ...]) -> np.ndarray:
      start, stop, _ = index[0].indices(self._rows)
      first = self._here.index(start)
      return array[(slice(first, first + stop - start), *index[1:])]

    shape = (self._rows, *array.shape[1:])
    return jax.make_array_from_callback(shape, self._sharding, part)


def rows_within(held: Iterable[tuple[slice, ...]], rows: int) -> list[int]:
  """The rows of a batch that devices hold, ascending, from what each of them holds."""
  return sorted({row for (each,) in held for row in range(*each.indices(rows))})
