"""What a traced function tells the compiler of its sharding.

Inside a function traced `on` a mesh, `rows` and `gathered` say that activations are
divided by rows and weights gathered for them. Left alone, the compiler divides
activations by width and moves them between devices instead of the weights. `own` is for
what it cannot divide at all, `own_columns` for loops in which it would add up over
devices in every round. Without a mesh all of them do nothing.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jax.typing import DTypeLike

from transfusion_jax.core import axes


def on(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
  """The function, traced with a mesh that `rows` and `gathered` find."""

  @functools.wraps(function)
  def traced(*arguments):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*arguments)

  return traced


def rows(
  x: jax.Array, *, over: tuple[str, ...] = axes.BATCH_SPEC[0], last: str | None = None
) -> jax.Array:
  """Divides the leading axis as batches are; the others are as the compiler likes.

  Args:
    x: an array by rows.
    over: axes of the mesh that divide the rows.
    last: axis of the mesh that divides the last axis.
  """
  mesh = _mesh()
  if mesh is None or x.shape[0] % math.prod(mesh.shape[name] for name in over):
    return x
  entries: list[Any] = [over, *[PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)]
  if last is not None and x.shape[-1] % mesh.shape[last] == 0:
    entries[-1] = last
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*entries))


def gathered(x: jax.Array, names: Sequence[str], dtype: DTypeLike) -> jax.Array:
  """A parameter in the type of the activations, whole along the fsdp axis.

  It is cast before it is gathered. Its gradient is summed and divided before it is
  cast back: half the bytes go between devices, and a sum whose parts stay where they
  belong is a reduce-scatter.
  """
  mesh = _mesh()
  if mesh is None:
    return x.astype(dtype)
  divided = axes.spec(names, x.shape, mesh.shape)
  whole = PartitionSpec(*(None if axis == 'fsdp' else axis for axis in divided))
  return _gather(x, dtype, x.dtype, divided, whole)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _gather(x, dtype, stored, divided, whole):
  del stored, divided
  return jax.lax.with_sharding_constraint(x.astype(dtype), whole)


def _gather_forward(x, dtype, stored, divided, whole):
  return _gather(x, dtype, stored, divided, whole), None


def _gather_backward(dtype, stored, divided, whole, _, gradient):
  del dtype, whole
  return (jax.lax.with_sharding_constraint(gradient, divided).astype(stored),)


_gather.defvjp(_gather_forward, _gather_backward)


def own(
  function: Callable[..., jax.Array], by_head: Sequence[jax.Array], by_row: Any
) -> jax.Array:
  """`function(*by_head, by_row)` on every device for its own rows and heads.

  For what the compiler cannot divide by itself, such as kernels. Rows that do not
  divide are left to the compiler; heads that do not are whole on every device.

  Args:
    function: gives an array [b, h, ...].
    by_head: arrays [b, h, ...].
    by_row: arrays [b, ...], in any tree.
  """
  mesh = _mesh()
  parts = 0 if mesh is None else mesh.shape['data'] * mesh.shape['fsdp']
  if mesh is None or by_head[0].shape[0] % parts:
    return function(*by_head, by_row)
  whole = any(each.shape[1] % mesh.shape['tensor'] for each in by_head)
  heads = PartitionSpec(axes.BATCH_SPEC[0], None if whole else 'tensor')
  return jax.shard_map(
    function,
    mesh=mesh,
    in_specs=(*(heads for _ in by_head), axes.BATCH_SPEC),
    out_specs=heads,
    check_vma=False,
  )(*by_head, by_row)


def own_columns(
  function: Callable[[Any, jax.Array, tuple[str, ...]], tuple[Any, Any]],
  by_row: Any,
  matrix: jax.Array,
) -> tuple[Any, Any]:
  """`function(by_row, matrix, over)` on every device for its own rows and columns.

  Rows that do not divide are left to the compiler; columns that do not are whole on
  every device.

  Args:
    function: gives arrays [b, ...] and sums over its rows of the shape of `matrix`,
      both in any tree. What it needs of all columns it adds up over the axes `over` of
      the mesh. The sums are added up over rows here, once.
    by_row: arrays [b, ...], in any tree.
    matrix: as `gathered` gives it.
  """
  mesh = _mesh()
  over = axes.BATCH_SPEC[0]
  count = jax.tree.leaves(by_row)[0].shape[0]
  if mesh is None or count % math.prod(mesh.shape[name] for name in over):
    return function(by_row, matrix, ())
  columns = 'tensor' if matrix.shape[1] % mesh.shape['tensor'] == 0 else None
  scattered = matrix.shape[0] % mesh.shape['fsdp'] == 0

  def add_up(x):
    if scattered:
      x = jax.lax.psum_scatter(x, 'fsdp', scatter_dimension=0, tiled=True)
      return jax.lax.psum(x, 'data')
    return jax.lax.psum(x, over)

  def local(by_row, matrix):
    rows, sums = function(by_row, matrix, () if columns is None else (columns,))
    return rows, jax.tree.map(add_up, sums)

  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(axes.BATCH_SPEC, PartitionSpec(None, columns)),
    out_specs=(
      axes.BATCH_SPEC,
      PartitionSpec('fsdp' if scattered else None, columns),
    ),
    check_vma=False,
  )(by_row, matrix)


def _mesh() -> AbstractMesh | None:
  """The mesh that the function being traced is `on`."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh if set(axes.MESH_AXES) <= set(mesh.axis_names) else None
