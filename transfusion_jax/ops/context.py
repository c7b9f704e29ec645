"""Attention on a mesh: every device computes its own rows, heads and positions.

The compiler cannot divide kernels, so that attention and rotary embedding run under
`shard_map`. If the mesh divides positions (context parallelism), a device holds the
queries, keys and values of some positions. It gathers the keys and values of all
others, and their gradients are summed where they came from. Spans are indices into the
keys of the whole row, so that the result is the same for any mask, and for images that
lie on several devices.

    o_s = attend(q_s, gather(k), gather(v), span_s)                           (1)

Later queries of a causal row see more keys. A row has 2 S chunks; device s of S
therefore computes the chunks s and 2 S - 1 - s, which together see as many keys as any
other such pair. Two permutations send the queries there, a chunk each, and two send the
outputs back.

If queries do not divide into 2 S chunks (as the one of decoding), or keys into S parts,
every device of the axis holds the whole row and computes the same. Heads and rows that
are not divisible are likewise replicated along the axes concerned.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from transfusion_jax.core import axes, sharding
from transfusion_jax.ops import attention, rope, schedule
from transfusion_jax.ops import span as span_lib

_AXIS = 'sequence'


def prepare(
  span: span_lib.Span, keys: int, *, backend: attention.Backend
) -> span_lib.Span | schedule.Plan:
  """`attention.prepare` for the queries that every device computes.

  Args:
    span: start and end of each query's keys, [b, q].
    keys: number of keys of the whole row.
    backend: backend of the later calls of `attend`.
  """
  make = functools.partial(attention.prepare, keys=keys, backend=backend)
  mesh = sharding.current()
  if mesh is None:
    return make(span)
  rows = _rows(mesh, span.start.shape[0])
  axis = _axis(mesh, span.start.shape[1], keys)
  parts = sharding.ways(mesh, axis)

  def own(span):
    return make(jax.tree.map(lambda x: _deal(x, parts), span))

  # Shapes for one device: its queries may be too few for a schedule, which those of the
  # whole row would get.
  few = jax.tree.map(lambda x: x[:, : x.shape[1] // parts], span)
  return jax.shard_map(
    own,
    mesh=mesh,
    in_specs=PartitionSpec(rows, axis),
    out_specs=_by_query(jax.eval_shape(make, few), rows, axis),
    check_vma=False,  # kernels do not declare which axes their outputs vary over
  )(span)


def attend(
  q: Float[Array, 'b h q d'],
  k: Float[Array, 'b g k d'],
  v: Float[Array, 'b g k d'],
  span: span_lib.Span | schedule.Plan,
  *,
  backend: attention.Backend,
) -> Float[Array, 'b h q d']:
  """`attention.attend`, (1), on a mesh; `span` is the result of `prepare`."""
  one = functools.partial(attention.attend, backend=backend)
  mesh = sharding.current()
  if mesh is None:
    return one(q, k, v, span=span)
  axis = _axis(mesh, q.shape[2], k.shape[2])
  parts = sharding.ways(mesh, axis)
  by_head = _by_head(mesh, q, k, axis=axis)

  def own(q, k, v, span):
    dealt = _deal(q, parts, axis=2)
    o = one(dealt, _gather(k, parts), _gather(v, parts), span=span)
    return _collect(o, parts, axis=2)

  return jax.shard_map(
    own,
    mesh=mesh,
    in_specs=(by_head, by_head, by_head, _by_query(span, by_head[0], axis)),
    out_specs=by_head,
    check_vma=False,
  )(q, k, v, span)


def attend_all(
  q: Float[Array, 'b h n d'],
  k: Float[Array, 'b h n d'],
  v: Float[Array, 'b h n d'],
  *,
  backend: attention.Backend,
) -> Float[Array, 'b h n d']:
  """`attention.attend_all` on a mesh: every query sees every key, as within images.

  The compiler divides XLA backends by itself. For the kernel, the `sequence` axis too
  divides the images of a batch, if it can; every image is whole on one device.

  Args:
    q: queries.
    k: keys, as many as queries.
    v: values.
    backend: attention backend of rows; see `attention.within`.
  """
  chosen = attention.within(q, backend=backend)
  one = functools.partial(attention.attend_all, backend=chosen)
  mesh = sharding.current()
  if mesh is None or chosen != 'tpu':
    return one(q, k, v)
  rows, heads, *_ = _by_head(mesh, q, axis=None)
  if q.shape[0] % sharding.ways(mesh, (*rows, _AXIS)) == 0:
    rows = (*rows, _AXIS)
  by_head = PartitionSpec(rows, heads)
  return jax.shard_map(
    one, mesh=mesh, in_specs=by_head, out_specs=by_head, check_vma=False
  )(q, k, v)


def rotate(
  x: Float[Array, 'b h t d'], by: rope.Rotation, *, backend: attention.Backend
) -> Float[Array, 'b h t d']:
  """`rope.rotate` of queries or keys on a mesh; positions stay on their devices."""
  one = functools.partial(rope.rotate, backend=backend)
  mesh = sharding.current()
  if mesh is None:
    return one(x, by)
  axis = _axis(mesh, x.shape[2], x.shape[2])
  by_head = _by_head(mesh, x, axis=axis)
  return jax.shard_map(
    one,
    mesh=mesh,
    in_specs=(by_head, PartitionSpec(by_head[0], None, axis)),
    out_specs=by_head,
    check_vma=False,
  )(x, by)


def _rows(mesh: jax.sharding.AbstractMesh, count: int) -> tuple[str, ...]:
  """Subset of the row axes that divides `count` rows into the most parts."""
  some = (
    chosen
    for number in range(len(axes.ROWS) + 1)
    for chosen in itertools.combinations(axes.ROWS, number)
    if count % sharding.ways(mesh, chosen) == 0
  )
  return max(some, key=lambda chosen: (sharding.ways(mesh, chosen), len(chosen)))


def _axis(mesh: jax.sharding.AbstractMesh, queries: int, keys: int) -> str | None:
  """Mesh axis that divides positions; None if devices would not get whole chunks."""
  parts = mesh.shape[_AXIS]
  divides = parts == 1 or not (queries % (2 * parts) or keys % parts)
  return _AXIS if divides else None


def _by_head(
  mesh: jax.sharding.AbstractMesh, *arrays: Array, axis: str | None
) -> PartitionSpec:
  """Spec of arrays [b, h, n, d]; heads are divided only if those of all arrays can."""
  whole = any(each.shape[1] % mesh.shape['tensor'] for each in arrays)
  rows = _rows(mesh, arrays[0].shape[0])
  return PartitionSpec(rows, None if whole else 'tensor', axis)


def _by_query(tree: Any, rows: tuple[str, ...], axis: str | None) -> Any:
  """Specs of arrays [b, ..., q], which divide rows and queries."""
  return jax.tree.map(lambda x: PartitionSpec(rows, *[None] * (x.ndim - 2), axis), tree)


def _gather(x: Array, parts: int) -> Array:
  """Gathers the keys or values of the whole row."""
  return x if parts == 1 else jax.lax.all_gather(x, _AXIS, axis=2, tiled=True)


def _deal(x: Array, parts: int, axis: int = 1) -> Array:
  """Exchanges a device's two adjacent chunks for the two that it computes."""
  return _exchange(x, axis, [_ways(parts, half) for half in (0, 1)])


def _collect(x: Array, parts: int, axis: int = 1) -> Array:
  """Inverse of `_deal`."""
  back = [[(b, a) for a, b in _ways(parts, half)] for half in (0, 1)]
  return _exchange(x, axis, back)


def _exchange(x: Array, axis: int, ways: list[list[tuple[int, int]]]) -> Array:
  if len(ways[0]) == 1:
    return x
  halves = jnp.split(x, 2, axis=axis)
  moved = [jax.lax.ppermute(h, _AXIS, w) for h, w in zip(halves, ways, strict=True)]
  return jnp.concatenate(moved, axis=axis)


def _ways(parts: int, half: int) -> list[tuple[int, int]]:
  """Device pairs: one holds chunk `2 s + half`, the other computes it."""
  chunks = range(half, 2 * parts, 2)
  return [(c // 2, c if c < parts else 2 * parts - 1 - c) for c in chunks]
