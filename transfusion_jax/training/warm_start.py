"""Begins a run with what another one has learnt, as far as it fits.

Parameters are taken by their paths. What has another shape or is not there stays as it
was made, but for a token table of another size: of that, the rows both have are taken,
which suits vocabularies that have grown at their end. The optimizer begins anew. Every
difference is told on a line of its own: `+` is made anew, `-` is left behind, `~` is
taken in part.
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
  """Where parameters come from at a fresh start.

  Attributes:
    checkpoint: work directory of another run; empty: they are made.
    step: of its checkpoint; -1: the newest.
    parameters: `ema`, `params`, or `own`: averaged ones where it has them.
  """

  checkpoint: str
  step: int
  parameters: Literal['own', 'ema', 'params']

  def __post_init__(self):
    if self.checkpoint:
      place = paths.local(self.checkpoint, 'start.checkpoint')
      object.__setattr__(self, 'checkpoint', str(place))


@dataclasses.dataclass(frozen=True)
class Source:
  """A step of another run, and what it holds.

  Attributes:
    directory: of its checkpoints.
    step: which.
    field: of its state.
    arrays: shape and type of every array of that field.
  """

  directory: pathlib.Path
  step: int
  field: str
  arrays: dict[Path, jax.ShapeDtypeStruct]


def find(config: StartConfig) -> Source:
  """The step that a run is to begin with; reads no array.

  Raises:
    ValueError: there is none, it does not keep such parameters, or the run is of
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
  return Source(directory, step, field, arrays)


def read(
  config: StartConfig, params: Mapping[str, Any], names: Mapping[str, Any]
) -> tuple[Given, Given]:
  """Parameters of another run, as far as they fit: of the same shape, and of another.

  Args:
    config: where they come from; with no checkpoint there are none.
    params: shapes and shardings of the parameters that are wanted.
    names: axis names of every parameter.

  Returns:
    By path. The first lie where they are wanted, the others are whole everywhere.
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
  """The axis along which an array may differ; -1 if it is the same, None if no fit."""
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
  """The array to be read: where ours is, or whole where another shape is divided."""
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
