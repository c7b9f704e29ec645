"""Sequences through the whole model at once, packed into rows of one shape."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from transfusion_jax.core import axes, sharding
from transfusion_jax.data.rows import layout, packing
from transfusion_jax.generation import writer as writer_lib


def shape(
  writer: writer_lib.Writer, *, rows: int, pictures: tuple[int, ...] = (0, 0, 0, 3)
) -> packing.Rows:
  """The shape of batches of a model's context.

  Args:
    writer: the model.
    rows: at least; a few more where they are to divide over the model's devices.
    pictures: of a row: how many, their height, width and channels.
  """
  mesh = sharding.mesh_of(writer.model)
  parts = 1 if mesh is None else sharding.ways(mesh, axes.ROWS)
  return packing.Rows(
    count=-(-rows // parts) * parts,
    length=writer.context,
    image_slots=pictures[0],
    image_shape=pictures[1:],
    image_type=np.uint8,
    pad=writer.tokenizer.special.pad,
  )


def batches(
  sequences: Iterable[layout.Sequence], rows: packing.Rows
) -> Iterator[list[list[layout.Sequence]]]:
  """Sequences in their order, as many to a row as fit, `rows.count` rows at a time."""
  bins: list[list[layout.Sequence]] = [[]]
  room, slots = rows.length, rows.image_slots
  for sequence in sequences:
    if len(sequence) > room or len(sequence.images) > slots:
      if len(bins) == rows.count:
        yield bins
        bins = []
      bins.append([])
      room, slots = rows.length, rows.image_slots
    bins[-1].append(sequence)
    room, slots = room - len(sequence), slots - len(sequence.images)
  if bins[0]:
    yield bins + [[]] * (rows.count - len(bins))


def placed(model: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  """Arrays by rows, divided over the devices of a model."""
  mesh = sharding.mesh_of(model)
  where = None if mesh is None else NamedSharding(mesh, axes.BATCH_SPEC)
  return {name: jax.device_put(array, where) for name, array in arrays.items()}


@functools.cache
def compiled(
  function: Callable[..., Any], mesh: Mesh | None, static: tuple[int, ...] = ()
) -> Callable[..., Any]:
  """The function, jitted once for a mesh; `static` numbers its fixed arguments."""
  traced = function if mesh is None else sharding.on(mesh, function)
  return jax.jit(traced, static_argnums=static)
