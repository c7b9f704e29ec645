"""Sharding constraints inside traced functions.

In a function traced `on` a mesh, `rows`, `positions` and `gathered` constrain
activations to be divided by rows and positions, and weights to be gathered for them.
Without constraints the compiler divides activations by width, and moves them between
devices instead of the weights. `own_columns` is for loops in which the compiler would
sum over devices in every iteration. Without a mesh these functions do nothing.
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
  """Wraps a function so that it is traced with a mesh, which `current` returns."""

  @functools.wraps(function)
  def traced(*arguments):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*arguments)

  return traced


def current() -> AbstractMesh | None:
  """Mesh of the function that is being traced; None outside `on`."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh if set(axes.MESH_AXES) <= set(mesh.axis_names) else None


def divides() -> bool:
  """True if the function that is being traced runs on several devices."""
  mesh = current()
  return mesh is not None and mesh.size > 1


def mesh_of(tree: Any) -> Mesh | None:
  """Mesh that arrays are sharded over; None if a single device holds them."""
  found = jax.tree.leaves(tree)[0].sharding
  return found.mesh if isinstance(found, NamedSharding) else None


def rows(x: jax.Array) -> jax.Array:
  """Divides the leading axis as a batch; the compiler chooses for the other axes."""
  return divided(x, axes.ROWS)


def positions(x: jax.Array) -> jax.Array:
  """Divides rows and positions, the two leading axes."""
  return divided(x, axes.ROWS, 'sequence')


def divided(x: jax.Array, *over: str | tuple[str, ...] | None) -> jax.Array:
  """Divides the leading axes of an array.

  Args:
    x: any array.
    over: mesh axis or axes for each leading axis of `x`. The compiler chooses for None,
      and for axes whose length is not divisible.
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
  """Number of parts that mesh axes divide an array axis into."""
  names = (names,) if isinstance(names, str) else names or ()
  return math.prod(mesh.shape[name] for name in names)


def gathered(x: jax.Array, names: Sequence[str], dtype: DTypeLike) -> jax.Array:
  """Casts a parameter to the type of the activations and gathers it over the fsdp axis.

  The cast comes before the gather; the gradient is reduce-scattered before it is cast
  back. Both then move half the bytes between devices.
  """
  mesh = current()
  if mesh is None:
    return x.astype(dtype)
  split = axes.spec(names, x.shape, mesh.shape)
  whole = PartitionSpec(*(None if axis == 'fsdp' else axis for axis in split))
  return _gather(x, dtype=dtype, stored=x.dtype, split=split, whole=whole)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _gather(x, dtype, stored, split, whole):
  del stored, split
  return jax.lax.with_sharding_constraint(x.astype(dtype), whole)


def _gather_forward(x, dtype, stored, split, whole):
  return _gather(x, dtype=dtype, stored=stored, split=split, whole=whole), None


def _gather_backward(dtype, stored, split, whole, _, gradient):
  del dtype, whole
  return (jax.lax.with_sharding_constraint(gradient, split).astype(stored),)


_gather.defvjp(_gather_forward, _gather_backward)


def own_columns(
  function: Callable[[Any, jax.Array, tuple[str, ...]], tuple[Any, Any]],
  by_position: Any,
  matrix: jax.Array,
) -> tuple[Any, Any]:
  """Runs `function(by_position, matrix, over)` on every device for its own part.

  A device holds some rows and positions of `by_position`, and some columns of `matrix`.
  If rows or positions are not divisible, the compiler divides the work; if columns are
  not, every device holds all of them.

  Args:
    function: returns arrays [b, t, ...], and sums over its positions with the shape of
      `matrix`, both as pytrees. It reduces over all columns itself, over the mesh axes
      `over`. Its sums are reduced over positions here, once, after it has returned.
    by_position: pytree of arrays [b, t, ...].
    matrix: weights [e, v] as returned by `gathered`.
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
