"""Iterators with a state, and Grain's prefetching around them."""

from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np

from transfusion_jax.data import mixture
from transfusion_jax.data.rows import packing


class Drawn(Iterator[np.ndarray]):
  """Iterator over the draws of a mixture; its state is like that of `Packer`."""

  def __init__(self, source: mixture.Mixture, *, each: int):
    """Args: source: without end; each: rows that it gives to every batch."""
    self._source, self._each, self._row = source, each, 0

  def __next__(self) -> np.ndarray:
    ((_, made),) = self._source.draw(self._row // self._each)
    self._row += 1
    return made

  def get_state(self) -> dict[str, Any]:
    return {'row': self._row, 'source': self._source.get_state()}

  def set_state(self, state: dict[str, Any]) -> None:
    self._row = int(state['row'])
    self._source.set_state(state['source'])


class OwnDataset(grain.IterDataset[packing.Batch]):
  """Grain's view of an iterator of ours, which has a state."""

  def __init__(self, make: Callable[[], Any]):
    super().__init__()
    self._make = make

  def __iter__(self) -> 'OwnIterator':
    return OwnIterator(self._make())


class OwnIterator(grain.DatasetIterator[packing.Batch]):
  """The same, begun."""

  def __init__(self, iterator: Any):
    super().__init__()
    self._iterator = iterator

  def __next__(self) -> packing.Batch:
    return next(self._iterator)

  def get_state(self) -> dict[str, Any]:
    return self._iterator.get_state()

  def set_state(self, state: dict[str, Any]) -> None:
    self._iterator.set_state(state)


def prefetched(
  make: Callable[[], Any], *, batches: int
) -> grain.DatasetIterator[packing.Batch]:
  """Prefetches in a thread; the state is that of what was handed out."""
  return iter(
    grain.experimental.ThreadPrefetchIterDataset(
      OwnDataset(make), prefetch_buffer_size=batches
    )
  )
