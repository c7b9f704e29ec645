"""Mesh of devices: the only module that queries the available devices."""

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from transfusion_jax.core import axes

JOINING = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
"""Environment variables: address of the coordinator, number of processes, index."""

LONGEST_EVALUATION = 24 * 60 * 60
"""Seconds that finished processes wait for the one that evaluates."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Number of devices of a slice along each axis; -1 on one axis: all that are left.

  Slices, joined by a slower network, are another axis before these, which is not set by
  the user: it divides rows, and only sums of gradients are sent between slices.

  Attributes:
    data: divides rows; parameters are replicated.
    fsdp: divides rows and parameters.
    sequence: divides positions (`ops/context.py`); parameters are replicated.
    tensor: divides heads, hidden widths and the vocabulary.
  """

  data: int
  fsdp: int
  sequence: int
  tensor: int


def shape(config: MeshConfig, devices: int, slices: int = 1) -> tuple[int, ...]:
  """Sizes of `axes.MESH_AXES` for a number of devices in all slices together.

  Raises:
    ValueError: the product of the axes is not the number of devices of a slice.
  """
  devices //= slices
  sizes = list(dataclasses.astuple(config))
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
      f'fsdp={config.fsdp} sequence={config.sequence} tensor={config.tensor}; set one '
      'axis of --config.mesh to -1 to let it take what is left'
    )
  return slices, *sizes


def slices(devices: Sequence[Any]) -> int:
  """Number of slices that the devices belong to."""
  return len({getattr(device, 'slice_index', 0) for device in devices})


def make(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
  """Creates the mesh over all devices, or over the given ones.

  Raises:
    ValueError: the product of the axes is not the number of devices of a slice.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = shape(config, len(devices), slices(devices))
  if sizes[0] > 1:
    between = (sizes[0], *(1,) * (len(sizes) - 1))
    arranged = mesh_utils.create_hybrid_device_mesh(
      (1, *sizes[1:]), between, devices, allow_split_physical_axes=True
    )
  else:
    arranged = mesh_utils.create_device_mesh(
      sizes, devices, allow_split_physical_axes=True
    )
  types = (AxisType.Auto,) * len(sizes)
  return Mesh(arranged, axes.MESH_AXES, axis_types=types)


def single() -> Mesh:
  """Mesh of a single device, for sampling."""
  types = (AxisType.Auto,) * len(axes.MESH_AXES)
  ones = (1,) * len(axes.MESH_AXES)
  return jax.make_mesh(
    ones, axes.MESH_AXES, axis_types=types, devices=jax.devices()[:1]
  )


def join(asked: bool) -> None:
  """Connects the processes of a run, before any of them has used a device.

  `launch.local` sets the variables `JOINING`. Otherwise, if `asked`, JAX detects the
  processes, for example on Cloud TPU and under Slurm. Else the process is alone.

  Args:
    asked: True if the user has set `--distributed`.

  Raises:
    ValueError: JAX finds no other processes, or there are several without `asked`.
  """
  given = {name: os.environ.get(name) for name in JOINING}
  jax.config.update('jax_enable_preemption_service', False)  # `preemption` listens
  initialize = functools.partial(
    jax.distributed.initialize, shutdown_timeout_seconds=LONGEST_EVALUATION
  )
  if all(given.values()):
    address, count, index = given.values()
    initialize(address, int(count), int(index))
  elif asked:
    try:
      initialize()
    except ValueError as error:
      raise ValueError(
        'expected --distributed where JAX finds the other hosts, as on Cloud TPU, '
        f'found none ({error}); leave it out, or start with launch.local'
      ) from error
  elif any(given.values()):
    raise ValueError(
      f'expected all of {", ".join(JOINING)}, found {given}; set or unset'
    )
  elif jax.process_count() > 1:
    raise ValueError(
      f'expected one process, found one of {jax.process_count()}; start all of them '
      'with --distributed'
    )


@functools.cache
def line() -> Mesh:
  """One-dimensional mesh of all devices, for messages between processes."""
  return jax.make_mesh((jax.device_count(),), ('device',), (AxisType.Auto,))
