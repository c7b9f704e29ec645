"""Which meshes, remat policies and micro-batches are worth a compilation."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from transfusion_jax.compiling import topologies
from transfusion_jax.training import mesh as mesh_lib

REMATS = ('full', 'save_attention', 'minimal')
"""From the least memory to the most."""


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One choice.

  Attributes:
    mesh: devices of a slice along each axis.
    microbatches: parts of a batch, one after the other.
    remat: what the backward pass recomputes.
  """

  mesh: mesh_lib.MeshConfig
  microbatches: int
  remat: str


def meshes(
  topology: topologies.Topology, *, rows: int, heads: int, width: int, sequence: int
) -> Iterator[mesh_lib.MeshConfig]:
  """Meshes that give every device a row and whose axes follow the sides of the torus.

  Also those with fsdp over all devices that the other axes leave.

  Args:
    topology: whose devices are divided.
    rows: of the batch.
    heads: that the tensor axis must divide: key and value heads.
    width: of the model, that the fsdp axis must divide.
    sequence: devices along the positions of a row, which stay as they are.
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
      found = mesh_lib.MeshConfig(left // fsdp, fsdp, sequence, tensor)
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
  """Compiles candidates and ranks those that fit, the fastest first.

  Micro-batches gather the weights again: a mesh takes as few as fit. A policy that
  saves more is tried only where one that saves less fits.

  Args:
    shapes: of meshes.
    rows: of the batch.
    slices: that the mesh is repeated on.
    attempt: what is known of a candidate (see `summary.measure`); None: does not fit.
    tries: compilations at most.
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
  """Those that fit, the shortest step first; of equals the one with less memory."""
  fitting = [each for each in found if each[1]['fits']]
  return sorted(fitting, key=lambda e: (e[1]['step_seconds'], e[1]['peak_bytes']))
