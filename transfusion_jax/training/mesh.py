"""The mesh of devices: the only file that knows which devices there are."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from transfusion_jax.core import axes


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each axis; -1 on one axis takes all that are left.

  Attributes:
    data: rows are divided, parameters copied.
    fsdp: rows are divided, parameters too.
    tensor: heads, hidden widths and the vocabulary are divided.
  """

  data: int
  fsdp: int
  tensor: int


def shape(config: MeshConfig, devices: int) -> tuple[int, int, int]:
  """The mesh's shape on a number of devices.

  Raises:
    ValueError: the axes do not multiply to the number of devices.
  """
  sizes = [config.data, config.fsdp, config.tensor]
  open_axes = [index for index, size in enumerate(sizes) if size == -1]
  known = math.prod(size for size in sizes if size != -1)
  if len(open_axes) > 1 or known < 1 or any(s == 0 or s < -1 for s in sizes):
    raise ValueError(
      f'expected positive mesh axes, at most one of them -1, found {config}; change '
      '--config.mesh'
    )
  if open_axes and devices % known == 0:
    sizes[open_axes[0]] = devices // known
  if math.prod(sizes) != devices or -1 in sizes:
    raise ValueError(
      f'expected a mesh of {devices} devices in all, found data={config.data} '
      f'fsdp={config.fsdp} tensor={config.tensor}; set one axis of --config.mesh to -1 '
      'to let it take what is left'
    )
  return tuple(sizes)


def make(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
  """The mesh over all devices, or over those given.

  Slices, which a slower network joins, are divided along the data axis: only the sums
  of gradients go between them.

  Raises:
    ValueError: the axes do not multiply to the number of devices, or the data axis does
      not divide into the slices.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = shape(config, len(devices))
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  if sizes[0] % slices:
    raise ValueError(
      f'expected a data axis that divides into {slices} slices, found {sizes[0]}; set '
      f'--config.mesh.data={slices} or a multiple'
    )
  if slices > 1:
    inner = (sizes[0] // slices, *sizes[1:])
    arranged = mesh_utils.create_hybrid_device_mesh(
      inner, (slices, 1, 1), devices, allow_split_physical_axes=True
    )
  else:
    arranged = mesh_utils.create_device_mesh(
      sizes, devices, allow_split_physical_axes=True
    )
  types = (AxisType.Auto,) * len(sizes)
  return Mesh(arranged, axes.MESH_AXES, axis_types=types)


def single() -> Mesh:
  """A mesh of one device, for sampling."""
  types = (AxisType.Auto,) * len(axes.MESH_AXES)
  ones = (1,) * len(axes.MESH_AXES)
  return jax.make_mesh(
    ones, axes.MESH_AXES, axis_types=types, devices=jax.devices()[:1]
  )
