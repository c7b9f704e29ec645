"""Attention on a mesh: every device for its own rows, heads and positions.

Kernels cannot be divided by the compiler, so that attention runs under `shard_map`.
Where the mesh divides positions (context parallelism), a device has some queries and
the keys and values that stand there; those of the other positions are gathered for it,
and their gradients are summed where they came from. A query's span is a stretch of keys
of the whole row: any mask, and any image across the border between two devices, comes
out the same.

    o_s = attend(q_s, gather(k), gather(v), span_s)                           (1)

Later queries of a causal row see more keys. Of 2 S chunks of a row, device s of S
therefore has the chunks s and 2 S - 1 - s, which together see as many as any other two
(`deal`, `collect`); the keys are put back in order once they are gathered.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from transfusion_jax.core import axes, sharding
from transfusion_jax.ops import attention, schedule
from transfusion_jax.ops import span as span_lib

_AXIS = 'sequence'


def deal(x: Any) -> Any:
  """Puts positions, axis 1 of every array, in the order in which devices share them."""
  parts = _parts()
  return jax.tree.map(lambda leaf: _ordered(leaf, 1, _dealt(parts)), x)


def collect(x: Any) -> Any:
  """The inverse of `deal`."""
  parts = _parts()
  return jax.tree.map(lambda leaf: _ordered(leaf, 1, np.argsort(_dealt(parts))), x)


def prepare(
  span: span_lib.Span, keys: int, *, backend: attention.Backend
) -> span_lib.Span | schedule.Plan:
  """`attention.prepare` of every device's own queries.

  Args:
    span: start and end of each query's keys [b, q], the queries as they were dealt.
    keys: number of keys of the whole row.
    backend: that `attend` will be given.
  """
  make = functools.partial(attention.prepare, keys=keys, backend=backend)
  if not _divides(span.start.shape[0]):
    return make(span)
  return jax.shard_map(
    make,
    mesh=sharding.current(),
    in_specs=PartitionSpec(axes.ROWS, _AXIS),
    out_specs=_by_query(jax.eval_shape(make, span)),
    check_vma=False,
  )(span)


def attend(
  q: Float[Array, 'b h q d'],
  k: Float[Array, 'b g k d'],
  v: Float[Array, 'b g k d'],
  span: span_lib.Span | schedule.Plan,
  *,
  backend: attention.Backend,
) -> Float[Array, 'b h q d']:
  """`attention.attend`, (1), positions as they were dealt.

  Rows that do not divide are left to the compiler; heads that do not are whole on every
  device.
  """
  one = functools.partial(attention.attend, backend=backend)
  if not _divides(q.shape[0]):
    return one(q, _ordered(k, 2, _back()), _ordered(v, 2, _back()), span)
  mesh, parts = sharding.current(), _parts()
  whole = any(each.shape[1] % mesh.shape['tensor'] for each in (q, k))
  by_head = PartitionSpec(axes.ROWS, None if whole else 'tensor', _AXIS)

  def own(q, k, v, span):
    return one(q, _gather(k, parts), _gather(v, parts), span)

  return jax.shard_map(
    own,
    mesh=mesh,
    in_specs=(by_head, by_head, by_head, _by_query(span)),
    out_specs=by_head,
    check_vma=False,
  )(q, k, v, span)


def _gather(x, parts):
  """Keys or values of the whole row, in their natural order."""
  if parts == 1:
    return x
  x = jax.lax.all_gather(x, _AXIS, axis=2, tiled=True)
  return _ordered(x, 2, np.argsort(_dealt(parts)))


def _parts() -> int:
  mesh = sharding.current()
  return 1 if mesh is None else mesh.shape[_AXIS]


def _back() -> np.ndarray:
  return np.argsort(_dealt(_parts()))


def _divides(rows: int) -> bool:
  """Whether there is a mesh, and every device gets whole rows."""
  mesh = sharding.current()
  return mesh is not None and rows % sharding.ways(mesh, axes.ROWS) == 0


def _by_query(tree: Any) -> Any:
  """Specs of arrays [b, ..., q]: rows and, last, what goes by query."""
  return jax.tree.map(
    lambda x: PartitionSpec(axes.ROWS, *[None] * (x.ndim - 2), _AXIS), tree
  )


def _dealt(parts: int) -> np.ndarray:
  """Chunks in the order of the devices that have them: 0, last, 1, last but one, ..."""
  first = np.arange(parts)
  return np.stack([first, 2 * parts - 1 - first], axis=1).reshape(-1)


def _ordered(x: Array, axis: int, order: np.ndarray) -> Array:
  """The chunks of an axis in another order."""
  if len(order) == 2:
    return x
  shape = x.shape
  x = x.reshape(*shape[:axis], len(order), -1, *shape[axis + 1 :])
  return jnp.take(x, order, axis=axis).reshape(shape)
