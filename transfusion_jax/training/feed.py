"""Feed: batches from a data iterator onto the devices."""

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
  """Interface of a data iterator."""

  def __next__(self) -> Mapping[str, np.ndarray]:
    """Rows of the next batch that this process holds."""

  def get_state(self) -> dict[str, Any]:
    """Position in the data, as JSON."""

  def set_state(self, state: dict[str, Any]) -> None:
    """Continues from a state, or from the merged states of several processes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
  """Record of the batches since the previous record.

  Attributes:
    digests: digest of every batch over all hosts, sixteen hexadecimal digits each.
    sizes: amount of data in every batch over all hosts, in `Feed.unit`.
    waited: seconds spent waiting for data.
    shares: shares of the sources in the data that this process has drawn.
  """

  digests: list[str]
  sizes: list[int]
  waited: float
  shares: dict[str, float]


class Feed:
  """Puts batches on the mesh, divided by rows, and prepares them there.

  A process produces only the rows that its devices hold. Depending on the mesh, these
  rows are not always adjacent, and several processes may hold the same ones.
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
      source: creates an iterator over the given rows of every batch; it yields NumPy
        arrays by field.
      mesh: mesh of the run; `axes.BATCH_SPEC` divides the rows.
      rows: number of rows of a batch.
      state: state of an earlier feed from which to continue; None: the beginning.
      prepare: converts the arrays on the devices to the input of the step, for example
        images to latents; it also gets their digest, as a seed for keys.
      count: returns the amount of data in a batch, for the logged speed.
      shares: returns the shares of the sources, given the state of the iterator.
      empty: returns True if rows hold no more data.
      unit: unit of `count`: 'tokens' or 'pictures'.
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
    """Next batch.

    Raises:
      StopIteration: no process has more data; all processes end at the same batch.
      command.Exit: the data is not as configured.
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
    """Record of the batches since the last call; waits for the devices."""
    marks, self._marks = jax.device_get(self._marks), []
    waited, self._waited = self._waited, 0.0
    digests = [digest.text(lanes) for lanes, _ in marks]
    shares = self._shares(self._source.get_state())
    sizes = [int(size) for _, size in marks]
    return Given(digests=digests, sizes=sizes, waited=waited, shares=shares)

  def get_state(self) -> dict[str, Any]:
    """Position of all processes in the data after the last batch, as JSON."""
    return processes.together(self._source.get_state())

  def _placed(self, array: np.ndarray) -> jax.Array:
    def part(index: tuple[slice, ...]) -> np.ndarray:
      start, stop, _ = index[0].indices(self._rows)
      first = self._here.index(start)
      return array[(slice(first, first + stop - start), *index[1:])]

    shape = (self._rows, *array.shape[1:])
    return jax.make_array_from_callback(shape, self._sharding, part)


def rows_within(held: Iterable[tuple[slice, ...]], rows: int) -> list[int]:
  """Ascending indices of the rows that devices hold, from the slices of each."""
  return sorted({row for (each,) in held for row in range(*each.indices(rows))})
