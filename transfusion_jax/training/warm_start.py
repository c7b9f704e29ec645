"""Warm start: initial parameters from another run, as far as they fit.

Parameters are matched by path. Those that are absent or have another shape keep their
random initialisation, except a token table of another size: its common rows are taken,
which suits vocabularies that were extended at the end. The optimizer starts from
scratch. Every difference is logged on a line: `+` initialised, `-` not used, `~` used
in part.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import jax

from transfusion_jax.core import log, paths, tree
from transfusion_jax.training import checkpoint_reader, workdir

Path = tuple[str, ...]
Given = dict[Path, jax.Array]


@dataclasses.dataclass(frozen=True)
class StartConfig:
  """Origin of the parameters at a fresh start.

  Attributes:
    checkpoint: work directory of another run; empty: random initialisation.
    step: step of its checkpoint; -1: the newest.
    parameters: `ema`, `params`, or `own`: the average if the run has one.
  """

  checkpoint: str
  step: int
  parameters: Literal['own', 'ema', 'params']

  def __post_init__(self):
    if self.checkpoint:
      place = paths.local(self.checkpoint, 'start.checkpoint')
      object.__setattr__(self, 'checkpoint', str(place))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """Parameters in a checkpoint of another run.

  Attributes:
    directory: folder of its checkpoints.
    step: number of the step.
    field: field of the state.
    arrays: shape and type of every array of that field, by path.
  """

  directory: pathlib.Path
  step: int
  field: str
  arrays: dict[Path, jax.ShapeDtypeStruct]


def find(config: StartConfig) -> Source:
  """Finds the checkpoint that a run starts with; reads no arrays.

  Raises:
    ValueError: there is none, it has no such parameters, or its work directory has
      another version.
  """
  place = workdir.Workdir(pathlib.Path(config.checkpoint))
  place.check_version()
  directory = place.checkpoints
  step = checkpoint_reader.which(directory, None if config.step < 0 else config.step)
  held = checkpoint_reader.arrays(directory, step)
  fields = {path[0] for path in held}
  field = config.parameters
  if field == 'own':
    field = 'ema' if 'ema' in fields else 'params'
  if field not in fields:
    raise ValueError(
      f'expected start.parameters that {config.checkpoint} keeps, found no {field!r} '
      f'in step {step}; there are {", ".join(sorted(fields))}'
    )
  arrays = {path[1:]: leaf for path, leaf in held.items() if path[0] == field}
  return Source(directory=directory, step=step, field=field, arrays=arrays)


def read(
  config: StartConfig, params: Mapping[str, Any], names: Mapping[str, Any]
) -> tuple[Given, Given]:
  """Reads the parameters of another run that fit.

  Args:
    config: origin of the parameters; without a checkpoint nothing is read.
    params: shapes and shardings of the wanted parameters.
    names: axis names of every parameter.

  Returns:
    Arrays by path: first those of the same shape, sharded as wanted, then those of
    another shape, replicated on every device.
  """
  if not config.checkpoint:
    return {}, {}
  source = find(config)
  made, axes = tree.flatten(params), tree.flatten(names)
  shared = [path for path in made if path in source.arrays]
  grown = {path: _grown(made[path], source.arrays[path], axes[path]) for path in shared}
  taken = [path for path in shared if grown[path] is not None]
  log.info(
    f'beginning with {len(taken)} of {len(made)} arrays of {config.checkpoint}, '
    f'{source.field} of step {source.step}'
  )
  for line in _differences(made, source.arrays, grown):
    log.info(line)
  if not taken:
    return {}, {}
  wanted = {path: _abstract(made[path], source.arrays[path]) for path in taken}
  found = tree.flatten(
    checkpoint_reader.read(
      source.directory, {source.field: tree.nest(wanted)}, source.step, whole=False
    ).part(source.field)
  )
  same = {path: found[path] for path in taken if grown[path] < 0}
  return same, {path: found[path] for path in taken if path not in same}


def _grown(made, there, names: tuple[str, ...]) -> int | None:
  """Axis along which the shapes differ; -1 if they are equal, None if unusable."""
  if made.dtype != there.dtype or len(made.shape) != len(there.shape):
    return None
  sizes = zip(made.shape, there.shape, strict=True)
  differ = [axis for axis, (one, other) in enumerate(sizes) if one != other]
  if not differ:
    return -1
  named = len(names) == len(made.shape)
  grows = named and [names[axis] for axis in differ] == ['vocab']
  return differ[0] if grows else None


def _abstract(
  made: jax.ShapeDtypeStruct, there: jax.ShapeDtypeStruct
) -> jax.ShapeDtypeStruct:
  """Array to read: sharded like ours, or replicated if its shape differs."""
  sharding = made.sharding
  if made.shape != there.shape:
    sharding = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
  return jax.ShapeDtypeStruct(there.shape, there.dtype, sharding=sharding)


def _differences(
  made: Mapping[Path, jax.ShapeDtypeStruct],
  there: Mapping[Path, jax.ShapeDtypeStruct],
  grown: Mapping[Path, int | None],
) -> list[str]:
  lines = []
  for path in sorted(made.keys() | there.keys()):
    name, axis = '/'.join(path), grown.get(path)
    if axis == -1:
      continue
    if axis is not None:
      rows = f'{there[path].shape[axis]} and {made[path].shape[axis]} rows'
      lines.append(f'~ {name}: {rows}')
      continue
    lines += [f'- {name} {_kind(there[path])}'] if path in there else []
    lines += [f'+ {name} {_kind(made[path])}'] if path in made else []
  return lines


def _kind(leaf: Any) -> str:
  return f'{leaf.dtype}[{",".join(map(str, leaf.shape))}]'
