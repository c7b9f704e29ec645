"""TPU chips and their topologies: what exists, and its devices without the hardware.

A topology is `chip:AxB` or `chip:AxBxC`, the chips of one slice along each side of its
torus. libtpu describes the devices of any of them on any machine; importing this module
needs neither libtpu nor a TPU.
"""

import dataclasses
import importlib.util
import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import topologies

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """What is public about one kind of chip; all numbers are per JAX device.

  Attributes:
    name: as topologies are written.
    sides: of the torus, 2 or 3.
    most: chips in the largest slice, but for `more`.
    clock: that the compiler's cycles are counted in, in Hz.
    peak: bfloat16 FLOP/s.
    hbm_bytes: memory.
    link_rate: of one link in one direction, bytes/s; a ring uses both directions.
    kernel_share: of the peak that a Pallas attention kernel reaches on a causal row of
      4,096 at head dim 128, where the compiler counts no cycles: from counting bundles
      by hand on v5e and v6e, taken over for the others, and for pictures.
    loop_rate: bytes/s that the compiler gives a bfloat16 loop of its own, one that
      multiplies and adds: 0.2 (v4) to 0.4 of the memory's rate. Kernels that move more
      than they compute, and for which it counts no cycles either, are taken to be no
      faster.
    devices: JAX devices per chip.
    more: sides of slices beyond `most` that exist as well.
  """

  name: str
  sides: int
  most: int
  clock: float
  peak: float
  hbm_bytes: int
  link_rate: float
  kernel_share: float
  loop_rate: float
  devices: int = 1
  more: tuple[tuple[int, ...], ...] = ()


_LARGE = ((12, 24, 24), (16, 20, 28))

CHIPS = {
  chip.name: chip
  for chip in (
    Chip('v4', 3, 4096, 1.05e9, 275e12, 32 * GIB, 45e9, 0.8, 235e9),
    Chip('v5e', 2, 256, 1.5e9, 197e12, 16 * GIB, 45e9, 0.85, 332e9),
    Chip('v5p', 3, 6144, 1.75e9, 459e12, 95 * GIB, 90e9, 0.8, 995e9, more=_LARGE),
    Chip('v6e', 2, 256, 1.75e9, 918e12, 32 * GIB, 90e9, 0.28, 658e9),
    Chip(
      *('tpu7x', 3, 6144, 1.9e9, 1153e12, 96 * GIB, 90e9, 0.28, 1190e9),
      devices=2,
      more=(*_LARGE, (16, 16, 32), (16, 24, 24)),
    ),
  )
}

SLICE_RATE = 6.25e9
"""Bytes/s of one chip between slices: 25 GB/s for a host of four. An assumption."""

_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_SMALL_CUBES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
_LONGEST = 256


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice, or several alike that are joined by the data centre's network."""

  chip: Chip
  sides: tuple[int, ...]
  slices: int = 1

  @property
  def name(self) -> str:
    """`v5p:8x8x8`."""
    return f'{self.chip.name}:{"x".join(map(str, self.sides))}'

  @property
  def devices(self) -> int:
    """JAX devices in all slices."""
    return math.prod(self.sides) * self.chip.devices * self.slices


def shapes(chip: Chip) -> Iterator[tuple[int, ...]]:
  """Sides of every slice of a chip, as they are sold.

  Beyond 32 chips a torus of three sides is made of cubes of 4 x 4 x 4, and of the ways
  to arrange as many of them the most compact one is sold.
  """
  if chip.sides == 2:
    yield from _FLAT
    return
  yield from _SMALL_CUBES
  compact: dict[int, tuple[int, ...]] = {}
  for a in range(4, _LONGEST + 1, 4):
    for b in range(a, _LONGEST + 1, 4):
      for c in range(b, min(_LONGEST, chip.most // (a * b)) + 1, 4):
        known = compact.setdefault(a * b * c, (a, b, c))
        compact[a * b * c] = min(known, (a, b, c), key=_surface)
  yield from (compact[chips] for chips in sorted(compact))
  yield from chip.more


def find(name: str, slices: int = 1) -> Topology:
  """The topology of that name.

  Raises:
    ValueError: there is none; the message names the nearest.
  """
  match = re.fullmatch(r'(\w+):(\d+(?:x\d+)+)', name)
  if match is None or match[1] not in CHIPS:
    raise ValueError(
      f'expected a topology such as v5e:16x16 or v5p:8x8x8, of {", ".join(CHIPS)}, '
      f'found {name!r}; change --topology'
    )
  if slices < 1:
    raise ValueError(f'expected at least one slice, found {slices}; change --slices')
  chip, sides = CHIPS[match[1]], tuple(map(int, match[2].split('x')))
  known = tuple(shapes(chip))
  if sides not in known:
    near = min(known, key=lambda other: _distance(sides, other))
    raise ValueError(
      f'expected a topology that exists, found {name}; the nearest is '
      f'{Topology(chip, near).name}'
    )
  return Topology(chip, sides, slices)


def larger(topology: Topology, times: float = 1.0) -> Topology | None:
  """The next topology of the same chip with more chips; none beyond the largest.

  Args:
    topology: that is too small.
    times: how much more memory is needed: what a chip holds is taken to fall as chips
      are added.
  """
  chips = math.prod(topology.sides)
  more = [
    sides
    for sides in shapes(topology.chip)
    if math.prod(sides) > chips and math.prod(sides) >= times * chips
  ]
  if not more:
    return None
  sides = min(more, key=lambda other: (math.prod(other), max(other)))
  return dataclasses.replace(topology, sides=sides)


def devices(topology: Topology) -> list[Any]:
  """Devices that can be compiled for and nothing else.

  Raises:
    ImportError: libtpu is not installed.
    ValueError: libtpu refuses the topology.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise ImportError(
      "expected libtpu, which compiles for TPUs, found none; pip install -e '.[tpu]'"
    )
  options: dict[str, Any] = {}
  if topology.slices > 1:
    options['num_slices'] = topology.slices
  if math.prod(topology.sides) == 1:
    options['chips_per_host_bounds'] = (1, 1, 1)
  try:
    described = topologies.get_topology_desc(topology.name, platform='tpu', **options)
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(
      f'expected a topology that libtpu knows, found {topology.name}: {error}'
    ) from error
  found = list(described.devices)
  if len(found) != topology.devices:  # several slices of v4: two devices to a chip
    raise ValueError(
      f'expected {topology.devices} devices of {topology.slices} x {topology.name}, '
      f'libtpu describes {len(found)}; use one slice'
    )
  return found


def _surface(sides: tuple[int, ...]) -> int:
  return sum(math.prod(pair) for pair in itertools.combinations(sides, 2))


def _distance(wanted: tuple[int, ...], other: tuple[int, ...]) -> float:
  """How far two shapes are: mostly in chips, and in their sides."""
  chips = abs(math.log(max(math.prod(wanted), 1) / math.prod(other)))
  longest = max(len(wanted), len(other))
  a, b = (sorted((*s, *(1,) * (longest - len(s)))) for s in (wanted, other))
  pairs = zip(a, b, strict=True)
  return 6 * chips + sum(abs(math.log(max(x, 1) / y)) for x, y in pairs)
