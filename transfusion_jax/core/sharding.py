"""What a traced function tells the compiler of its sharding.

Inside a function traced `on` a mesh, `rows`, `positions` and `gathered` say that
activations are divided by rows and positions, and weights gathered for them. Left
alone, the compiler divides activations by width and moves them between devices instead
of the weights. `own_columns` is for loops in which it would add up over devices in
every round. Without a mesh all of them do nothing.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from transfusion_jax.core import axes


def on(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
  """The function, traced with a mesh that the others find."""

  @functools.wraps(function)
  def traced(*arguments):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*arguments)

  return traced


def current() -> AbstractMesh | None:
  """The mesh that the function being traced is `on`."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh if set(axes.MESH_AXES) <= set(mesh.axis_names) else None


def divides() -> bool:
  """Whether the function being traced is `on` several devices."""
  mesh = current()
  return mesh is not None and mesh.size > 1


def mesh_of(tree: Any) -> Mesh | None:
  """The mesh that arrays are divided over; None where one device holds them."""
  found = jax.tree.leaves(tree)[0].sharding
  return found.mesh if isinstance(found, NamedSharding) else None


def rows(x: jax.Array) -> jax.Array:
  """Divides the leading axis as batches are; the others are as the compiler likes."""
  return divided(x, axes.ROWS)


def positions(x: jax.Array) -> jax.Array:
  """Divides rows and positions, the two leading axes."""
  return divided(x, axes.ROWS, 'sequence')


def divided(x: jax.Array, *over: str | tuple[str, ...] | None) -> jax.Array:
  """Divides the leading axes of an array.

  Args:
    x: any array.
    over: for each of its leading axes the axis or the axes of the mesh that divide it;
      None, and one that does not divide, is as the compiler likes.
  """
  mesh = current()
  if mesh is None:
    return x
  free = PartitionSpec.UNCONSTRAINED
  entries: list[Any] = [free] * x.ndim
  for place, names in enumerate(over):
    parts = ways(mesh, names)
    if parts > 1 and x.shape[place] % parts == 0:
      entries[place] = names
  if all(entry is free for entry in entries):
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*entries))


def ways(mesh: AbstractMesh | Mesh, names: str | tuple[str, ...] | None) -> int:
  """Into how many parts axes of a mesh divide."""
  names = (names,) if isinstance(names, str) else names or ()
  return math.prod(mesh.shape[name] for name in names)


def gathered(x: jax.Array, names: Sequence[str], dtype: DTypeLike) -> jax.Array:
  """A parameter in the type of the activations, whole along the fsdp axis.

  It is cast before it is gathered. Its gradient is summed and divided before it is
  cast back: half the bytes go between devices, and a sum whose parts stay where they
  belong is a reduce-scatter.
  """
  mesh = current()
  if mesh is None:
    return x.astype(dtype)
  split = axes.spec(names, x.shape, mesh.shape)
  whole = PartitionSpec(*(None if axis == 'fsdp' else axis for axis in split))
  return _gather(x, dtype, x.dtype, split, whole)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _gather(x, dtype, stored, split, whole):
  del stored, split
  return jax.lax.with_sharding_constraint(x.astype(dtype), whole)


def _gather_forward(x, dtype, stored, split, whole):
  return _gather(x, dtype, stored, split, whole), None


def _gather_backward(dtype, stored, split, whole, _, gradient):
  del dtype, whole
  return (jax.lax.with_sharding_constraint(gradient, split).astype(stored),)


_gather.defvjp(_gather_forward, _gather_backward)


def own_columns(
  function: Callable[[Any, jax.Array, tuple[str, ...]], tuple[Any, Any]],
  by_position: Any,
  matrix: jax.Array,
) -> tuple[Any, Any]:
  """`function(by_position, matrix, over)` on every device for its own part of both.

  A device has some rows and positions, and some columns. Rows or positions that do not
  divide are left to the compiler; columns that do not are whole on every device.

  Args:
    function: gives arrays [b, t, ...] and sums over its positions of the shape of
      `matrix`, both in any tree. What it needs of all columns it adds up over the axes
      `over` of the mesh. The sums are added up over positions here, once.
    by_position: arrays [b, t, ...], in any tree.
    matrix: as `gathered` gives it.
  """
  mesh = current()
  rows, length = jax.tree.leaves(by_position)[0].shape[:2]
  if mesh is None or rows % ways(mesh, axes.ROWS) or length % mesh.shape['sequence']:
    return function(by_position, matrix, ())
  columns = 'tensor' if matrix.shape[1] % mesh.shape['tensor'] == 0 else None
  scattered = 'fsdp' if matrix.shape[0] % mesh.shape['fsdp'] == 0 else None
  others = tuple(name for name in (*axes.ROWS, 'sequence') if name != scattered)

  def add_up(x):
    if scattered:
      x = jax.lax.psum_scatter(x, scattered, scatter_dimension=0, tiled=True)
    return jax.lax.psum(x, others)

  def local(by_position, matrix):
    over = () if columns is None else (columns,)
    found, sums = function(by_position, matrix, over)
    return found, jax.tree.map(add_up, sums)

  places = PartitionSpec(axes.ROWS, 'sequence')
  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(places, PartitionSpec(None, columns)),
    out_specs=(places, PartitionSpec(scattered, columns)),
    check_vma=False,
  )(by_position, matrix)
