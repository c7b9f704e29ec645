"""Which meshes, remat policies and micro-batches are worth a compilation."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from transfusion_jax.compiling import topologies

REMATS = ('full', 'save_attention', 'minimal')
"""From the least memory to the most."""


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One choice.

  Attributes:
    mesh: devices along data, fsdp and tensor.
    microbatches: parts of a batch, one after the other.
    remat: what the backward pass recomputes.
  """

  mesh: tuple[int, int, int]
  microbatches: int
  remat: str


def meshes(
  topology: topologies.Topology, *, rows: int, heads: int
) -> Iterator[tuple[int, int, int]]:
  """Meshes that give every device a row and whose axes follow the sides of the torus.

  Args:
    topology: whose devices are divided.
    rows: of the batch.
    heads: that the tensor axis must divide: key and value heads.
  """
  total = topology.devices
  chosen = [
    math.prod(sides)
    for count in range(len(topology.sides) + 1)
    for sides in itertools.combinations(topology.sides, count)
  ]
  widths = sorted({1, *(side for side in topology.sides if heads % side == 0)})
  for tensor, fsdp in itertools.product(widths, sorted(set(chosen))):
    data = total // (fsdp * tensor)
    whole = data * fsdp * tensor == total
    if whole and data % topology.slices == 0 and rows % (data * fsdp) == 0:
      yield data, fsdp, tensor


def run(
  shapes: list[tuple[int, int, int]],
  *,
  rows: int,
  attempt: Callable[[Candidate], dict[str, Any] | None],
  tries: int,
) -> list[tuple[Candidate, dict[str, Any]]]:
  """Compiles candidates and ranks those that fit, the fastest first.

  Micro-batches gather the weights again: a mesh takes as few as fit. A policy that
  saves more is tried only where one that saves less fits.

  Args:
    shapes: of meshes.
    rows: of the batch.
    attempt: what is known of a candidate (see `summary.measure`); None: does not fit.
    tries: compilations at most.
  """
  found: list[tuple[Candidate, dict[str, Any]]] = []
  for mesh in shapes:
    each_row = rows // (mesh[0] * mesh[1])
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
