"""Batches whose rows can be made by anybody: every shard of the data packs its own.

Shard v of V packs the documents v, v + V, v + 2V, ... into its n = rows / V rows of
every batch, v n to v n + n - 1, and no other shard makes a difference to it. So the
batches depend on V alone, never on who makes which rows. A process makes the shards in
which its rows lie; where two need the same one, both make it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from transfusion_jax.data import layout, packing


class Shards(Iterator[packing.Batch]):
  """Some rows of every batch, without end.

  The state is `{'shards': {'0': ..., '1': ...}}`, ready for JSON, with the state of the
  packer of every shard that is made here. The shards of several processes together,
  or more of them than are needed, are a state as well.
  """

  def __init__(
    self,
    fetch: Callable[[int], layout.Sequence],
    shape: packing.Rows,
    *,
    shards: int,
    window: int,
    rows: Sequence[int],
  ):
    """Sets up the shards that are needed; nothing is fetched yet.

    Args:
      fetch: the document at an index, always the same one.
      shape: of the whole batch.
      shards: of the whole batch, V.
      window: documents that wait in every shard.
      rows: those that are wanted, ascending.
    """
    self._shape, self._wanted = shape, rows
    self._size = shape.count // shards
    self._packers = {
      shard: packing.Packer(_every(fetch, shards, shard), shape, window=window)
      for shard in sorted({row // self._size for row in rows})
    }

  def __next__(self) -> packing.Batch:
    made = {
      shard * self._size + index: next(packer)
      for shard, packer in self._packers.items()
      for index in range(self._size)
    }
    return packing.stack([made[row] for row in self._wanted], self._shape)

  def get_state(self) -> dict[str, Any]:
    """Where the shards stand that are made here."""
    return {
      'shards': {str(shard): each.get_state() for shard, each in self._packers.items()}
    }

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes on from where `get_state` was called, here or elsewhere."""
    for shard, packer in self._packers.items():
      packer.set_state(state['shards'][str(shard)])


def _every(fetch: Callable, step: int, first: int) -> Callable[[int], layout.Sequence]:
  return lambda index: fetch(first + step * index)
