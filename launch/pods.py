"""What Google calls a topology, and how its chips are spread over hosts.

Which topologies there are says `transfusion_jax/compiling/topologies.py`; here are the
names that gcloud, GKE and xpk give them. They are those of Google's documentation, and
those of GKE agree with what xpk 1.16 writes into its manifests.
"""

import argparse
import dataclasses
import math

from launch import command_line
from transfusion_jax.compiling import topologies

CHIPS_PER_HOST = 4
"""GKE also sells machines with 8 chips of v5e and v6e, which are not asked for."""


@dataclasses.dataclass(frozen=True)
class Family:
  """One kind of chip as Google's tools know it.

  Attributes:
    prefix: of the names of its slices, for gcloud and xpk.
    label: of its nodes in GKE.
    runtime: what its hosts run where there is no GKE; empty where GKE is the only way.
    cores: per chip, where slices are named by their cores; otherwise 1.
  """

  prefix: str
  label: str
  runtime: str
  cores: int


FAMILIES = {
  'v4': Family('v4', 'tpu-v4-podslice', 'tpu-ubuntu2204-base', 2),
  'v5e': Family('v5litepod', 'tpu-v5-lite-podslice', 'v2-alpha-tpuv5-lite', 1),
  'v5p': Family('v5p', 'tpu-v5p-slice', 'v2-alpha-tpuv5', 2),
  'v6e': Family('v6e', 'tpu-v6e-slice', 'v2-alpha-tpuv6e', 1),
  'tpu7x': Family('tpu7x', 'tpu7x', '', 2),
}


@dataclasses.dataclass(frozen=True)
class Pod:
  """One slice, or several alike, as something to ask Google for."""

  topology: topologies.Topology

  @property
  def family(self) -> Family:
    """The names of its chips."""
    return FAMILIES[self.topology.chip.name]

  @property
  def shape(self) -> str:
    """Chips along each side of a slice, `16x16`."""
    return 'x'.join(map(str, self.topology.sides))

  @property
  def chips_per_host(self) -> int:
    """What a host holds, of a slice."""
    return min(CHIPS_PER_HOST, math.prod(self.topology.sides))

  @property
  def hosts_per_slice(self) -> int:
    """Machines of a slice."""
    return math.prod(self.topology.sides) // self.chips_per_host

  @property
  def hosts(self) -> int:
    """Machines of all slices."""
    return self.hosts_per_slice * self.topology.slices

  @property
  def accelerator_type(self) -> str:
    """What gcloud calls a slice, `v5litepod-256`: its size, which decides its shape.

    Raises:
      ValueError: its hosts are only to be had through GKE.
    """
    if not self.family.runtime:
      raise ValueError(
        f'expected a topology of TPU VMs, found {self.topology.name}, which is only to '
        'be had through GKE; use launch.xpk or launch.gke'
      )
    chips = math.prod(self.topology.sides)
    return f'{self.family.prefix}-{chips * self.family.cores}'


def find(name: str, slices: int) -> Pod:
  """The pod of that topology.

  Raises:
    ValueError: there is no such topology, or no slice; the message says what there is.
  """
  return Pod(topologies.find(name, slices))


def in_cluster(asked: argparse.Namespace) -> Pod:
  """The pod that a launcher into a cluster is asked for.

  Args:
    asked: the flags of `command_line.Parser.add_cluster`, and the command.

  Raises:
    ValueError: one of them is not as it has to be.
  """
  command_line.check_name(asked.name)
  pod = find(asked.topology, asked.slices)
  if asked.slices > 1 and pod.hosts_per_slice == 1:
    raise ValueError(
      'expected slices of several hosts, which alone GKE joins, found '
      f'{asked.slices} of {pod.topology.name}; use one larger slice'
    )
  command_line.check_remote(asked.command, pod.hosts)
  return pod
