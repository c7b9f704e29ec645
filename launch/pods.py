"""Google's names of topologies, and the distribution of their chips over hosts.

`transfusion_jax/compiling/topologies.py` lists the topologies; this module has the
names that gcloud, GKE and xpk use for them, from Google's documentation. Those of GKE
agree with the manifests of xpk 1.16.
"""

import argparse
import dataclasses
import math

from launch import command_line
from transfusion_jax.compiling import topologies

CHIPS_PER_HOST = 4
"""Chips of a host; GKE also has machines with 8 chips of v5e and v6e, not used here."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """Names of a kind of chip in Google's tools.

  Attributes:
    prefix: prefix of slice names in gcloud and xpk.
    label: label of its nodes in GKE.
    runtime: runtime version of TPU VMs; empty if only GKE offers the chip.
    cores: cores per chip if slices are named by cores, else 1.
  """

  prefix: str
  label: str
  runtime: str
  cores: int


FAMILIES = {
  'v4': Family(
    prefix='v4',
    label='tpu-v4-podslice',
    runtime='tpu-ubuntu2204-base',
    cores=2,
  ),
  'v5e': Family(
    prefix='v5litepod',
    label='tpu-v5-lite-podslice',
    runtime='v2-alpha-tpuv5-lite',
    cores=1,
  ),
  'v5p': Family(
    prefix='v5p',
    label='tpu-v5p-slice',
    runtime='v2-alpha-tpuv5',
    cores=2,
  ),
  'v6e': Family(
    prefix='v6e',
    label='tpu-v6e-slice',
    runtime='v2-alpha-tpuv6e',
    cores=1,
  ),
  'tpu7x': Family(
    prefix='tpu7x',
    label='tpu7x',
    runtime='',
    cores=2,
  ),
}


@dataclasses.dataclass(frozen=True)
class Pod:
  """Slice, or several equal slices, with the names that Google's tools use."""

  topology: topologies.Topology

  @property
  def family(self) -> Family:
    """Names of its kind of chip."""
    return FAMILIES[self.topology.chip.name]

  @property
  def shape(self) -> str:
    """Chips along each side of a slice, for example `16x16`."""
    return 'x'.join(map(str, self.topology.sides))

  @property
  def chips_per_host(self) -> int:
    """Number of chips of a host."""
    return min(CHIPS_PER_HOST, math.prod(self.topology.sides))

  @property
  def hosts_per_slice(self) -> int:
    """Number of hosts of a slice."""
    return math.prod(self.topology.sides) // self.chips_per_host

  @property
  def hosts(self) -> int:
    """Number of hosts of all slices."""
    return self.hosts_per_slice * self.topology.slices

  @property
  def accelerator_type(self) -> str:
    """Accelerator type in gcloud, `v5litepod-256`: the size, which decides the shape.

    Raises:
      ValueError: the chip is available in GKE only.
    """
    if not self.family.runtime:
      raise ValueError(
        f'expected a topology of TPU VMs, found {self.topology.name}, which is only to '
        'be had through GKE; use launch.xpk or launch.gke'
      )
    chips = math.prod(self.topology.sides)
    return f'{self.family.prefix}-{chips * self.family.cores}'


def find(name: str, slices: int) -> Pod:
  """Finds the pod of a topology.

  Raises:
    ValueError: there is no such topology; the message lists the existing ones.
  """
  return Pod(topologies.find(name, slices))


def in_cluster(asked: argparse.Namespace) -> Pod:
  """Checks the flags of a cluster launcher and returns their pod.

  Args:
    asked: flags of `command_line.Parser.add_cluster`, and the command.

  Raises:
    ValueError: a flag or the command is invalid.
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
