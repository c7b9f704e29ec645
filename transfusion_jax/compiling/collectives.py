"""Collectives in scheduled HLO: their bytes, who takes part, and over which links.

`timeline.py` says when they run and what of them is waited for.
"""

import dataclasses
import re
from typing import Any

import numpy as np

from transfusion_jax.compiling import hlo, topologies

KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-broadcast',
  'collective-permute',
)
_COLORS = re.compile(r'colors:(\d+)')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective of the program.

  Attributes:
    kind: one of `KINDS`.
    bytes: of the whole array, of which a device has or ends with one part.
    axes: of the mesh, whose devices take part.
    overlaps: whether it is asynchronous; `Runs` says what of it is waited for.
    seconds: that its bytes take.
    operation: what it belongs to, as traced.
  """

  kind: str
  bytes: int
  axes: tuple[str, ...]
  overlaps: bool
  seconds: float
  operation: str


def describe(
  core: hlo.Instruction,
  mesh: Any,
  chip: topologies.Chip,
  *,
  overlaps: bool,
  scattered: bool = False,
) -> Collective:
  """Kind, bytes, mesh axes and seconds of a collective instruction.

  Args:
    core: the instruction, its start, or a `send` between slices.
    mesh: the devices in their logical order; see `timeline.Reader`.
    chip: on which it runs.
    overlaps: whether it is asynchronous.
    scattered: whether of an all-reduce only a slice is kept.
  """
  kind = _kind(core)
  members = _members(core, mesh)
  count = members.shape[1]
  whole = _bytes(kind, core, count)
  share = 1.0 if kind == 'collective-permute' else (count - 1) / count
  moved = whole * share * (2 if kind == 'all-reduce' and not scattered else 1)
  kind = 'reduce-scatter' if scattered else kind
  seconds = moved / _rate(kind, core, members, mesh, chip)
  operation = core.rendezvous or core.operation
  return Collective(kind, whole, _axes(members, mesh), overlaps, seconds, operation)


def _kind(core: hlo.Instruction) -> str:
  if core.opcode != 'send':
    return re.sub(r'-start$', '', core.opcode)
  told = core.attribute('_xla_megascale_transfer_type').lower().replace('_', '-')
  reduces = core.attribute('_xla_megascale_reduce_operation')
  return told if told in KINDS else 'all-reduce' if reduces else 'collective-permute'


def _members(core: hlo.Instruction, mesh: Any) -> np.ndarray:
  """Numbers of the devices that take part together, [groups, members]."""
  if core.opcode == 'send':
    slices = [getattr(one, 'slice_index', 0) for one in mesh.devices.flat]
    return np.argsort(slices, kind='stable').reshape(len(set(slices)), -1).T
  for found in (hlo.pairs(core.text), core.groups):
    if found is not None:
      return found
  return np.arange(mesh.devices.size)[None]


def _bytes(kind: str, core: hlo.Instruction, count: int) -> int:
  found = hlo.sizes(core.shape)
  if kind == 'collective-permute':
    return found[0] if found else 0
  if core.opcode == 'send':
    return found[0] * (count if kind == 'all-gather' else 1)
  if core.opcode.endswith('-start') and kind != 'all-reduce':
    half = len(found) // 2  # what is taken, then what is made
    return max(sum(found[:half]), sum(found[half:]))
  return sum(found) * (count if kind == 'reduce-scatter' else 1)


def _rate(kind, core, members, mesh, chip) -> float:
  """Bytes/s: one ring in both directions, or as many ways as the compiler says."""
  devices = mesh.devices.reshape(-1)
  slices = {getattr(devices[i], 'slice_index', 0) for i in members[0]}
  if len(slices) > 1:
    return topologies.SLICE_RATE / chip.devices
  if kind == 'collective-permute':
    return chip.link_rate
  ways = max((int(each) for each in _COLORS.findall(core.text)), default=2)
  return chip.link_rate * max(2, ways)


def _axes(members: np.ndarray, mesh: Any) -> tuple[str, ...]:
  """Axes of the mesh along which the members of a group differ."""
  places = np.stack(np.unravel_index(members, mesh.devices.shape))
  varies = (places != places[:, :, :1]).any(axis=(1, 2))
  return tuple(n for n, v in zip(mesh.axis_names, varies, strict=True) if v)
