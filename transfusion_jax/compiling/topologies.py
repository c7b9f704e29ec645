"""TPU chips, their topologies, and descriptions of devices without hardware.

A topology is `chip:AxB` or `chip:AxBxC`: the number of chips of a slice along each side
of its torus. libtpu describes the devices of any topology on any machine; importing
this module needs neither libtpu nor a TPU.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """Public facts about a kind of chip; rates and memory are per JAX device.

  Attributes:
    name: name in topologies.
    sides: number of sides of the torus, 2 or 3.
    most: number of chips in the largest slice, `more` excepted.
    clock: frequency of the compiler's cycles, in Hz.
    peak: bfloat16 FLOP/s.
    hbm_bytes: bytes of memory.
    link_rate: bytes/s of a link in one direction; a ring uses both directions.
    kernel_share: share of the peak that a Pallas attention kernel reaches on a causal
      row of 4,096 positions at head dim 128. The compiler estimates no cycles for
      kernels: the share was found by counting bundles by hand on v5e and v6e, and is
      assumed for the other chips, and for images.
    loop_rate: bytes/s that the compiler estimates for a bfloat16 loop of additions and
      multiplications: 0.2 (v4) to 0.4 of the memory's rate. Kernels limited by memory
      are assumed to be no faster.
    devices: JAX devices per chip.
    more: sides of further slices, larger than `most`.
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
    Chip(
      name='v4',
      sides=3,
      most=4096,
      clock=1.05e9,
      peak=275e12,
      hbm_bytes=32 * GIB,
      link_rate=45e9,
      kernel_share=0.8,
      loop_rate=235e9,
    ),
    Chip(
      name='v5e',
      sides=2,
      most=256,
      clock=1.5e9,
      peak=197e12,
      hbm_bytes=16 * GIB,
      link_rate=45e9,
      kernel_share=0.85,
      loop_rate=332e9,
    ),
    Chip(
      name='v5p',
      sides=3,
      most=6144,
      clock=1.75e9,
      peak=459e12,
      hbm_bytes=95 * GIB,
      link_rate=90e9,
      kernel_share=0.8,
      loop_rate=995e9,
      more=_LARGE,
    ),
    Chip(
      name='v6e',
      sides=2,
      most=256,
      clock=1.75e9,
      peak=918e12,
      hbm_bytes=32 * GIB,
      link_rate=90e9,
      kernel_share=0.28,
      loop_rate=658e9,
    ),
    Chip(
      name='tpu7x',
      sides=3,
      most=6144,
      clock=1.9e9,
      peak=1153e12,
      hbm_bytes=96 * GIB,
      link_rate=90e9,
      kernel_share=0.28,
      loop_rate=1190e9,
      devices=2,
      more=(*_LARGE, (16, 16, 32), (16, 24, 24)),
    ),
  )
}

SLICE_RATE = 6.25e9
"""Bytes/s of a chip between slices; assumed: 25 GB/s for a host of four chips."""

_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_SMALL_CUBES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
_LONGEST = 256


@dataclasses.dataclass(frozen=True)
class Topology:
  """Slice, or several equal slices joined by the data centre network."""

  chip: Chip
  sides: tuple[int, ...]
  slices: int = 1

  @property
  def name(self) -> str:
    """Name, for example `v5p:8x8x8`."""
    return f'{self.chip.name}:{"x".join(map(str, self.sides))}'

  @property
  def devices(self) -> int:
    """Number of JAX devices in all slices."""
    return math.prod(self.sides) * self.chip.devices * self.slices


def shapes(chip: Chip) -> Iterator[tuple[int, ...]]:
  """Generates the sides of all slices of a chip that are offered.

  Beyond 32 chips a three-sided torus consists of cubes of 4 x 4 x 4 chips, in the most
  compact arrangement for their number.
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
  """Finds a topology by name.

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
  """Next larger topology of the same chip; None for the largest.

  Args:
    topology: topology that is too small.
    times: needed memory as a multiple of a chip's; memory per chip is assumed to be
      inversely proportional to the number of chips.
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
  """Distance of two shapes: first by number of chips, then by sides."""
  chips = abs(math.log(max(math.prod(wanted), 1) / math.prod(other)))
  longest = max(len(wanted), len(other))
  a, b = (sorted((*s, *(1,) * (longest - len(s)))) for s in (wanted, other))
  pairs = zip(a, b, strict=True)
  return 6 * chips + sum(abs(math.log(max(x, 1) / y)) for x, y in pairs)
