"""Axis names: the table from axis names of parameters to mesh axes.

A parameter names its axes (`embed`, `mlp`, `heads`, ...). This table maps names to
mesh axes. A dimension that is not divisible by its mesh axis is replicated, so that
small models run on any mesh.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MESH_AXES = ('slice', 'data', 'fsdp', 'sequence', 'tensor')

PARAMETER_RULES: Mapping[str, str | None] = {
  'layers': None,
  'embed': 'fsdp',
  'mlp': 'tensor',
  'heads': 'tensor',
  'kv_heads': 'tensor',
  'vocab': 'tensor',
  'head_dim': None,
  'patch': None,
  'time': 'fsdp',
  'conv': None,
  'channels_in': 'fsdp',
  'channels_out': 'tensor',
  'norm': None,
}

ROWS = ('slice', 'data', 'fsdp')
"""Mesh axes that divide the rows of a batch."""

BATCH_SPEC = PartitionSpec(ROWS)
"""PartitionSpec of a batch, whose leading axis is its rows."""


def spec(
  names: Sequence[str], shape: Sequence[int], sizes: Mapping[str, int]
) -> PartitionSpec:
  """PartitionSpec of a parameter from the names of its axes.

  Args:
    names: names of the trailing axes of `shape`; axes before them are stacked layers.
    shape: shape of the parameter.
    sizes: number of devices along each mesh axis.

  Raises:
    ValueError: a name is not in the table, or two names map to one mesh axis.
  """
  names = ('layers',) * (len(shape) - len(names)) + tuple(names)
  unknown = [name for name in names if name not in PARAMETER_RULES]
  if unknown:
    raise ValueError(
      f'expected axis names of {sorted(PARAMETER_RULES)}, found {unknown}; add the '
      'name to PARAMETER_RULES in core/axes.py'
    )
  axes = [PARAMETER_RULES[name] for name in names]
  used = [axis for axis in axes if axis is not None]
  if len(used) != len(set(used)):
    raise ValueError(
      f'expected at most one axis of an array on each mesh axis, found {names} mapped '
      f'to {axes}; name one of the axes differently'
    )
  whole = [
    axis if axis is not None and length % sizes[axis] == 0 else None
    for axis, length in zip(axes, shape, strict=True)
  ]
  return PartitionSpec(*whole)


def shardings(mesh: Mesh, names: Any, shapes: Any) -> Any:
  """NamedSharding of every parameter; `names` and `shapes` have the same structure."""
  sizes = dict(mesh.shape)
  return jax.tree.map(
    lambda leaf, axes: NamedSharding(mesh, spec(axes, leaf.shape, sizes)), shapes, names
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of scalars and keys: replicated on every device."""
  return NamedSharding(mesh, PartitionSpec())
