"""From the data iterator to the devices."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from transfusion_jax.core import axes


@runtime_checkable
class Source(Protocol):
  """What is asked of a data iterator."""

  def __next__(self) -> Mapping[str, np.ndarray]:
    """The rows of the next batch that belong to this host."""

  def get_state(self) -> dict[str, Any]:
    """Where it stands, as JSON."""


class Feed:
  """Puts batches on the mesh, rows divided, and prepares them there."""

  def __init__(
    self,
    source: Source,
    mesh: Mesh,
    *,
    prepare: Callable[[dict[str, jax.Array]], Any],
    count: Callable[[Mapping[str, np.ndarray]], int],
    unit: str,
  ):
    """Sets up the feed.

    Args:
      source: batches of NumPy arrays by field.
      mesh: rows go over its data and fsdp axes.
      prepare: from the arrays on the devices to what the step takes, for example with
        pictures encoded as latents.
      count: how much data a batch holds, for the speed that is shown.
      unit: what `count` counts: 'tokens' or 'pictures'.
    """
    self._source, self._prepare, self._count = source, prepare, count
    self._sharding = NamedSharding(mesh, axes.BATCH_SPEC)
    self.unit, self.size = unit, 0

  def __next__(self) -> Any:
    rows = next(self._source)
    self.size = self._count(rows)
    return self._prepare(
      {
        name: jax.make_array_from_process_local_data(self._sharding, array)
        for name, array in rows.items()
      }
    )

  def get_state(self) -> dict[str, Any]:
    """Where the data stands behind the last batch given."""
    return self._source.get_state()
