"""Collectives in scheduled HLO: bytes, participating devices and links.

`timeline.py` computes when they run, and for how long a step waits for them.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
  """Collective of a program.

  Attributes:
    kind: one of `KINDS`.
    bytes: bytes of the whole array, of which each device holds a part before or after.
    axes: mesh axes along which devices take part.
    overlaps: True if it is asynchronous; `Runs` has the time that is waited for it.
    seconds: time of the transfer.
    operation: traced operation that it belongs to.
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
  """Describes a collective instruction.

  Args:
    core: the instruction, its start, or a `send` between slices.
    mesh: devices in logical order; see `timeline.Reader`.
    chip: chip on which it runs.
    overlaps: True if it is asynchronous.
    scattered: True if only a slice of an all-reduce is kept.
  """
  kind = _kind(core)
  members = _members(core, mesh)
  count = members.shape[1]
  whole = _bytes(kind, core, count)
  share = 1.0 if kind == 'collective-permute' else (count - 1) / count
  moved = whole * share * (2 if kind == 'all-reduce' and not scattered else 1)
  kind = 'reduce-scatter' if scattered else kind
  rate = _rate(kind, core, members=members, mesh=mesh, chip=chip)
  return Collective(
    kind=kind,
    bytes=whole,
    axes=_axes(members, mesh),
    overlaps=overlaps,
    seconds=moved / rate,
    operation=core.rendezvous or core.operation,
  )


def _kind(core: hlo.Instruction) -> str:
  if core.opcode != 'send':
    return re.sub(r'-start$', '', core.opcode)
  told = core.attribute('_xla_megascale_transfer_type').lower().replace('_', '-')
  reduces = core.attribute('_xla_megascale_reduce_operation')
  return told if told in KINDS else 'all-reduce' if reduces else 'collective-permute'


def _members(core: hlo.Instruction, mesh: Any) -> np.ndarray:
  """Device numbers of the groups that communicate, [groups, members]."""
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


def _rate(kind, core, *, members, mesh, chip) -> float:
  """Bytes/s: a ring in both directions, or more links if the compiler uses them."""
  devices = mesh.devices.reshape(-1)
  slices = {getattr(devices[i], 'slice_index', 0) for i in members[0]}
  if len(slices) > 1:
    return topologies.SLICE_RATE / chip.devices
  if kind == 'collective-permute':
    return chip.link_rate
  ways = max((int(each) for each in _COLORS.findall(core.text)), default=2)
  return chip.link_rate * max(2, ways)


def _axes(members: np.ndarray, mesh: Any) -> tuple[str, ...]:
  """Mesh axes along which the members of a group differ."""
  places = np.stack(np.unravel_index(members, mesh.devices.shape))
  varies = (places != places[:, :, :1]).any(axis=(1, 2))
  return tuple(n for n, v in zip(mesh.axis_names, varies, strict=True) if v)
