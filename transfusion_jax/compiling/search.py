"""Search for the fastest mesh, remat policy and number of micro-batches."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from transfusion_jax.compiling import topologies
from transfusion_jax.training import mesh as mesh_lib

REMATS = ('full', 'save_attention', 'minimal')
"""Remat policies, from the least memory to the most."""


@dataclasses.dataclass(frozen=True)
class Candidate:
  """Combination to compile.

  Attributes:
    mesh: number of devices of a slice along each axis.
    microbatches: number of parts of a batch.
    remat: remat policy.
  """

  mesh: mesh_lib.MeshConfig
  microbatches: int
  remat: str


def meshes(
  topology: topologies.Topology, *, rows: int, heads: int, width: int, sequence: int
) -> Iterator[mesh_lib.MeshConfig]:
  """Generates meshes whose axes match sides of the torus, with a row for every device.

  Meshes whose fsdp axis takes all remaining devices are included as well.

  Args:
    topology: devices to divide.
    rows: number of rows of the batch.
    heads: number of key and value heads, which the tensor axis must divide.
    width: width of the model, which the fsdp axis must divide.
    sequence: size of the sequence axis, which is fixed.
  """
  total = topology.devices // topology.slices
  chosen = [
    math.prod(sides)
    for count in range(len(topology.sides) + 1)
    for sides in itertools.combinations(topology.sides, count)
  ]
  widths = sorted({1, *(side for side in topology.sides if heads % side == 0)})
  for tensor in widths:
    left = total // (sequence * tensor)
    for fsdp in sorted({*chosen, max(left, 1)}):
      found = mesh_lib.MeshConfig(
        data=left // fsdp, fsdp=fsdp, sequence=sequence, tensor=tensor
      )
      whole = math.prod(dataclasses.astuple(found)) == total
      if whole and not width % fsdp and not rows % (topology.slices * left):
        yield found


def run(
  shapes: list[mesh_lib.MeshConfig],
  *,
  rows: int,
  slices: int,
  attempt: Callable[[Candidate], dict[str, Any] | None],
  tries: int,
) -> list[tuple[Candidate, dict[str, Any]]]:
  """Compiles candidates and ranks those that fit in memory, fastest first.

  Every micro-batch gathers the weights again, so that a mesh uses as few as fit. A
  policy that saves more activations is tried only if the one that saves fewer fits.

  Args:
    shapes: meshes to try.
    rows: number of rows of the batch.
    slices: number of slices, each with such a mesh.
    attempt: compiles a candidate; returns `summary.measure`, or None if too large.
    tries: maximum number of compilations.
  """
  found: list[tuple[Candidate, dict[str, Any]]] = []
  for mesh in shapes:
    each_row = rows // (slices * mesh.data * mesh.fsdp)
    for microbatches in (2**k for k in range(each_row.bit_length())):
      if each_row % microbatches:
        continue
      fits = False
      for remat in REMATS:
        if tries == 0:
          return ranked(found)
        tries -= 1
        result = attempt(Candidate(mesh, microbatches, remat))
        if result is None:
          break
        fits = True
        found.append((Candidate(mesh, microbatches, remat), result))
      if fits:
        break
  return ranked(found)


def ranked(
  found: list[tuple[Candidate, dict[str, Any]]],
) -> list[tuple[Candidate, dict[str, Any]]]:
  """Sorts candidates by step time, then by memory."""
  fitting = [each for each in found if each[1]['fits']]
  return sorted(fitting, key=lambda e: (e[1]['step_seconds'], e[1]['peak_bytes']))
