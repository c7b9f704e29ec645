"""Parser of scheduled HLO text: computations, instructions and their calls.

This module handles the syntax only; `timeline.py` interprets it.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

_BYTES = {'pred': 1, 's4': 0.5, 'u4': 0.5, 'token': 0, 'opaque': 0}
_ARRAY = re.compile(r'\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]')
_CALLED = re.compile(
  r'\b(?:calls|to_apply|body|condition|true_computation|false_computation|'
  r'branch_computations|called_computations|async_computation)='
  r'(\{[^{}]*\}|%?[\w.\-]+)'
)
_FREE = ('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast')
_MARKERS = ('AllocateBuffer', 'ConcatBitcast', 'Sharding')  # targets of custom calls
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"?(\d+)')
_CHANNEL = re.compile(r'\bchannel_id=(\d+)')
_CONDITION = re.compile(r'condition=%?([\w.\-]+)')
_OPERATION = re.compile(r'op_name="([^"]*)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_COST_FLOPS = re.compile(r'"flops":\s*"?(\d+)')
_COST_BYTES = re.compile(r'"bytes_accessed":\s*"?(\d+)')
_HEADER = re.compile(r'^(ENTRY\s+)?%?([\w.\-]+)\s*\(.*\{\s*$')
_LINE = re.compile(r'^\s+(ROOT\s+)?%?([\w.\-]+) = (.*)$')
_MESH = re.compile(r'mesh\[([^\]]*)\](.*?)\{([^}]*)\}')
_IOTA = re.compile(r'\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction:
  """Instruction, one line of HLO.

  Attributes:
    name: unique name in its computation.
    opcode: `fusion`, `while`, `all-gather`, ...
    shape: text of the shape, with layouts.
    operands: names of the operands.
    called: names of the computations that it calls, in the order of the text.
    text: text after the operands.
    literal: text between the parentheses, for constants.
  """

  name: str
  opcode: str
  shape: str
  operands: tuple[str, ...]
  called: tuple[str, ...]
  text: str
  literal: str = ''

  @property
  def cycles(self) -> int | None:
    """Cycles estimated by the compiler; None without an estimate."""
    found = _CYCLES.search(self.text)
    return int(found[1]) if found else None

  @property
  def trips(self) -> int | None:
    """Iterations of a loop; None if the compiler does not know them."""
    found = _TRIPS.search(self.text)
    return int(found[1]) if found else None

  @property
  def kernel_cost(self) -> tuple[int, int] | None:
    """FLOPs and bytes in the cost estimate of a custom call; None without one."""
    if self.opcode != 'custom-call' or 'cost_estimate' not in self.text:
      return None
    told = self.text.split('cost_estimate', 1)[1]
    found = [pattern.search(told) for pattern in (_COST_FLOPS, _COST_BYTES)]
    if not all(found):
      return None
    flops, moved = (int(each[1]) for each in found)
    return flops, moved

  @property
  def channel(self) -> str | None:
    """Channel id shared by the parts of a transfer; None without one."""
    found = _CHANNEL.search(self.text)
    return found[1] if found else None

  @property
  def operation(self) -> str:
    """Traced operation that it belongs to; by default its own name."""
    found = _OPERATION.search(self.text)
    return found[1] if found else self.name

  @property
  def target(self) -> str:
    """Target of a custom call; empty for other instructions."""
    found = _TARGET.search(self.text)
    return found[1] if found else ''

  def attribute(self, name: str) -> str:
    """Frontend attribute; empty if absent."""
    found = re.search(rf'\b{name}="([^"]*)"', self.text)
    return found[1] if found else ''

  @property
  def rendezvous(self) -> str:
    """Name shared by `send` and `recv` between slices; empty for other instructions."""
    if self.attribute('_xla_host_transfer_handler_name') != 'xla_megascale_runtime':
      return ''
    return self.attribute('_xla_host_transfer_rendezvous') or self.name

  @property
  def works(self) -> bool:
    """True if it takes time of its own, unlike asynchronous instructions."""
    if self.opcode in _FREE or self.target in _MARKERS or 'Async' in self.target:
      return False
    return not re.search(r'-(start|done|update)$|^(send|recv)$', self.opcode)

  @property
  def groups(self) -> np.ndarray | None:
    """Replica groups, [groups, members]; None if absent."""
    return replica_groups(self.text)


@dataclasses.dataclass(frozen=True)
class Computation:
  """Computation: instructions in the order of the schedule."""

  name: str
  instructions: tuple[Instruction, ...]


@dataclasses.dataclass(frozen=True)
class Module:
  """Program: computations by name, and the name of the entry computation."""

  computations: Mapping[str, Computation]
  entry: str

  def inside(self, names: Iterable[str]) -> Iterator[Instruction]:
    """Iterates over instructions of computations and of those they fuse or call."""
    for name in names:
      for each in self.computations[name].instructions:
        yield each
        if each.opcode in ('fusion', 'call', 'async-start'):
          yield from self.inside(each.called)

  def rounds(self, loop: Instruction) -> int | None:
    """Iterations of a loop: given, or the only constant of its condition; else None."""
    if loop.trips is not None:
      return loop.trips
    condition = _CONDITION.search(loop.text)
    found = {
      int(each.literal)
      for each in self.inside([condition[1]] if condition else [])
      if each.opcode == 'constant' and each.literal.isdigit()
    }
    return found.pop() if len(found) == 1 else None


def parse(text: str) -> Module:
  """Parses HLO text.

  Raises:
    ValueError: the text has no entry computation.
  """
  computations: dict[str, Computation] = {}
  entry, name, lines = '', '', []
  for line in text.splitlines():
    header = _HEADER.match(line)
    if header:
      name, lines = header[2], []
      entry = name if header[1] else entry
    elif line.startswith('}') and name:
      computations[name] = Computation(name, tuple(lines))
      name = ''
    elif name:
      found = _LINE.match(line)
      if found:
        lines.append(_instruction(found[2], found[3]))
  if entry not in computations:
    raise ValueError('expected HLO text with an ENTRY computation, found none')
  return Module(computations, entry)


def sizes(shape: str) -> list[int]:
  """Bytes of each array of a shape, in order."""
  found = []
  for kind, extents in _ARRAY.findall(shape):
    bits = re.search(r'\d+', kind)
    width = _BYTES.get(kind, int(bits[0]) / 8 if bits else 0)
    count = np.prod([int(e) for e in extents.split(',') if e], dtype=np.int64)
    found.append(int(count * width))
  return found


def replica_groups(text: str) -> np.ndarray | None:
  """Parses replica groups, [groups, members].

  Notations: a list, {{0,1},{2,3}}; a reshaped range, [2,2]<=[4]T(0); or axes of a mesh
  of the compiler, mesh['a'=2,'b'=2] {'b'}, which may be split: 'b':(1)2.
  """
  start = text.find('replica_groups=')
  if start < 0:
    return None
  rest = text[start + len('replica_groups=') :]
  iota = _IOTA.match(rest)
  if iota:
    shape, extents = (_integers(iota[i]) for i in (1, 2))
    numbers = np.arange(np.prod(extents)).reshape(extents)
    if iota[3]:
      numbers = numbers.transpose(_integers(iota[3]))
    return numbers.reshape(shape)
  mesh = _MESH.match(rest)
  if mesh:
    return _mesh_groups(mesh[1], mesh[2], mesh[3])
  listed = re.match(r'\{((?:\{[\d,]*\},?)*)\}', rest)
  if not listed or not listed[1]:
    return None
  rows = [_integers(row) for row in re.findall(r'\{([\d,]*)\}', listed[1])]
  return np.array(rows)


def _mesh_groups(mesh: str, order: str, axes: str) -> np.ndarray:
  extents = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", mesh)}
  numbers = np.arange(np.prod(list(extents.values())))
  moved = re.search(r'\[([\d,]+)\]T\(([\d,]+)\)', order)
  if moved:
    numbers = numbers.reshape(_integers(moved[1])).transpose(_integers(moved[2]))
  parts: list[int] = []
  member: list[int] = []
  chosen = {
    name: (int(before or 1), int(size or extents[name]))
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes)
  }
  for name, extent in extents.items():
    before, size = chosen.get(name, (extent, 1))
    member += [len(parts) + 1]
    parts += [before, size, extent // before // size]
  others = [index for index in range(len(parts)) if index not in member]
  count = int(np.prod([parts[index] for index in member]))
  return numbers.reshape(parts).transpose(others + member).reshape(-1, count)


def pairs(text: str) -> np.ndarray | None:
  """Parses the (source, target) pairs of a collective permute, [pairs, 2]."""
  listed = re.search(r'source_target_pairs=\{((?:\{\d+,\d+\},?)+)\}', text)
  if not listed:
    return None
  return np.array(json.loads(f'[{listed[1]}]'.replace('{', '[').replace('}', ']')))


def _instruction(name: str, text: str) -> Instruction:
  end = _closing(text, 0) + 1 if text.startswith('(') else text.index(' ')
  shape, rest = text[:end], text[end:].lstrip()
  opening = rest.index('(')
  closing = _closing(rest, opening)
  inside, behind = rest[opening + 1 : closing], rest[closing + 1 :]
  called = [
    each.strip().lstrip('%')
    for group in _CALLED.findall(behind)
    for each in group.strip('{}').split(',')
  ]
  operands = tuple(re.findall(r'%([\w.\-]+)', inside))
  if not operands and rest[:opening] not in ('constant', 'parameter'):
    operands = tuple(each.split()[-1] for each in inside.split(',') if each.strip())
  return Instruction(
    name=name,
    opcode=rest[:opening],
    shape=shape,
    operands=operands,
    called=tuple(called),
    text=behind,
    literal=inside,
  )


def _closing(text: str, start: int) -> int:
  """Index of the parenthesis that closes the one at `start`; skips quoted text."""
  depth, quoted = 0, False
  for index in range(start, len(text)):
    letter = text[index]
    if letter == '"' and text[index - 1] != '\\':
      quoted = not quoted
    elif not quoted and letter == '(':
      depth += 1
    elif not quoted and letter == ')':
      depth -= 1
      if depth == 0:
        return index
  raise ValueError(f'expected a closing parenthesis, found none in {text[:80]!r}')


def _integers(text: str) -> list[int]:
  return [int(each) for each in text.split(',') if each]
