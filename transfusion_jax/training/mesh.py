"""The mesh of devices: the only file that knows which devices there are."""

import dataclasses
import math

import jax
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


def make(config: MeshConfig) -> Mesh:
  """The mesh over all devices."""
  sizes = shape(config, jax.device_count())
  types = (AxisType.Auto,) * len(sizes)
  return jax.make_mesh(sizes, axes.MESH_AXES, axis_types=types)


def single() -> Mesh:
  """A mesh of one device, for sampling."""
  types = (AxisType.Auto,) * len(axes.MESH_AXES)
  ones = (1,) * len(axes.MESH_AXES)
  return jax.make_mesh(
    ones, axes.MESH_AXES, axis_types=types, devices=jax.devices()[:1]
  )
