"""Batches whose rows can be made by anybody: every shard of the data packs its own.

Shard v of V takes the documents v, v + V, v + 2V, ... of every source into its
n = rows / V rows of every batch, v n to v n + n - 1, and no other shard makes a
difference to it. So the
batches depend on V alone, never on who makes which rows. A process makes the shards in
which its rows lie; where two need the same one, both make it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from transfusion_jax.data.rows import packing


@runtime_checkable
class Rowmaker(Protocol):
  """Protocol of a maker of rows, such as `packing.Packer`."""

  def __next__(self) -> Any: ...

  def get_state(self) -> dict[str, Any]: ...

  def set_state(self, state: dict[str, Any]) -> None: ...


class Shards(Iterator[packing.Batch]):
  """Some rows of every batch, without end.

  The state is `{'shards': {'0': ..., '1': ...}}`, ready for JSON, with the state of
  every shard that is made here. The shards of several processes together, or more of
  them than are needed, are a state as well.
  """

  def __init__(
    self,
    make: Callable[[int], Rowmaker],
    stack: Callable[[list[Any]], packing.Batch],
    *,
    count: int,
    shards: int,
    rows: Sequence[int],
  ):
    """Sets up the shards that are needed.

    Args:
      make: from the number of a shard to what makes its rows.
      stack: from rows to a batch.
      count: rows of the whole batch.
      shards: of the whole batch, V.
      rows: those that are wanted, ascending.
    """
    self._stack, self._wanted, self._size = stack, rows, count // shards
    needed = sorted({row // self._size for row in rows})
    self._shards = {shard: make(shard) for shard in needed}

  def __next__(self) -> packing.Batch:
    made = {
      shard * self._size + index: next(maker)
      for shard, maker in self._shards.items()
      for index in range(self._size)
    }
    return self._stack([made[row] for row in self._wanted])

  def get_state(self) -> dict[str, Any]:
    """State of the shards that are made here."""
    return {
      'shards': {str(shard): maker.get_state() for shard, maker in self._shards.items()}
    }

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes on from where `get_state` was called, here or elsewhere."""
    for shard, maker in self._shards.items():
      maker.set_state(state['shards'][str(shard)])
