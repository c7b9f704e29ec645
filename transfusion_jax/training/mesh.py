"""The mesh of devices: the only file that knows which devices there are."""

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
"""Where the processes of a run meet, how many they are, and which one this is."""

LONGEST_EVALUATION = 24 * 60 * 60
"""Seconds that processes wait at their end for the one that evaluates."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices of a slice along each axis; -1 on one axis takes all that are left.

  Slices, which a slower network joins, are an axis before these that nobody has to set:
  rows are divided over them, and only sums of gradients go between them.

  Attributes:
    data: rows are divided, parameters copied.
    fsdp: rows are divided, parameters too.
    sequence: positions are divided (`ops/context.py`), parameters copied.
    tensor: heads, hidden widths and the vocabulary are divided.
  """

  data: int
  fsdp: int
  sequence: int
  tensor: int


def shape(config: MeshConfig, devices: int, slices: int = 1) -> tuple[int, ...]:
  """Sizes of `axes.MESH_AXES` for a number of devices in so many slices.

  Raises:
    ValueError: the axes do not multiply to the devices of a slice.
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
  """Slices that the devices belong to."""
  return len({getattr(device, 'slice_index', 0) for device in devices})


def make(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
  """The mesh over all devices, or over those given.

  Raises:
    ValueError: the axes do not multiply to the devices of a slice.
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
  """A mesh of one device, for sampling."""
  types = (AxisType.Auto,) * len(axes.MESH_AXES)
  ones = (1,) * len(axes.MESH_AXES)
  return jax.make_mesh(
    ones, axes.MESH_AXES, axis_types=types, devices=jax.devices()[:1]
  )


def join(asked: bool) -> None:
  """Joins the processes of a run, before any of them has used a device.

  `launch.local` says in the environment where they meet, how many there are and which
  this one is. Elsewhere, where a process is `asked`, JAX finds it out: on Cloud TPU and
  under Slurm, for example. Without either a process is alone.

  Raises:
    ValueError: JAX finds no other processes, or this is one of several and not asked.
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
  """All devices of all processes in a row, for what processes tell each other."""
  return jax.make_mesh((jax.device_count(),), ('device',), (AxisType.Auto,))
