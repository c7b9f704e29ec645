"""Checkpoints: the only file that knows Orbax.

A step's folder holds `state` (parameters, average, optimizer, key) and `progress`, a
small JSON text: where the data stands, seconds spent, and whatever the run wants back.
"""

import dataclasses
import json
import pathlib
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from transfusion_jax.core import tree
from transfusion_jax.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class Restored:
  """A step that was found: the state with its arrays in place, and the progress."""

  state: state_lib.TrainState
  progress: dict[str, Any]


class Checkpoints:
  """The checkpoints of one run, a context manager; saves overlap with training."""

  def __init__(self, directory: pathlib.Path, *, keep: int):
    """Args: directory: made if absent; keep: how many of the newest steps stay."""
    policies = ocp.training
    self._checkpointer = ocp.training.Checkpointer(
      directory.absolute(),
      save_decision_policy=policies.save_decision_policies.FixedIntervalPolicy(1),
      preservation_policy=policies.preservation_policies.LatestN(keep),
      cleanup_tmp_directories=True,
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *error: object) -> None:
    self._checkpointer.close()

  def latest(self) -> int | None:
    """The newest complete step, or None."""
    self._checkpointer.wait()
    newest = self._checkpointer.latest
    return None if newest is None else newest.step

  def save(self, state: state_lib.TrainState, progress: dict[str, Any]) -> None:
    """Starts writing a step, after the one before is safely on disk."""
    self._checkpointer.wait()
    step = int(state.step)
    if self.latest() == step:
      return
    self._checkpointer.save_checkpointables_async(
      step, {'state': _fields(state), 'progress': {'json': json.dumps(progress)}}
    )

  def restore(self, step: int, abstract: state_lib.TrainState) -> Restored:
    """Reads a step straight into the shardings that `abstract` carries."""
    found = self._checkpointer.load_checkpointables(
      step, {'state': _fields(abstract), 'progress': None}
    )
    state = state_lib.TrainState(**found['state'])
    return Restored(state, json.loads(found['progress']['json']))

  def wait(self) -> None:
    """Returns when everything that was saved is on disk."""
    self._checkpointer.wait()


def steps(directory: pathlib.Path) -> list[int]:
  """The complete steps of a run, ascending; it may go on meanwhile."""
  if not directory.is_dir():
    return []
  with ocp.training.Checkpointer(directory.absolute()) as reader:
    return sorted(each.step for each in reader.checkpoints)


def read(
  directory: pathlib.Path, wanted: dict[str, Any], step: int | None = None
) -> Restored:
  """A step of a run, only the parts of the state in `wanted`.

  Args:
    directory: where `Checkpoints` wrote.
    wanted: abstract parts of the state by field, for example `{'ema': shapes}`.
    step: which; None: the newest.

  Returns:
    The parts in place (the other fields are None), and the progress.

  Raises:
    ValueError: there is no checkpoint, or none of that step.
  """
  there = steps(directory)
  if not there:
    raise missing(directory)
  if step is not None:
    check_step(directory, step, there)
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  with (
    context,
    ocp.training.Checkpointer(directory.absolute(), context=context) as reader,
  ):
    found = reader.load_checkpointables(
      there[-1] if step is None else step, {'state': wanted, 'progress': None}
    )
  absent = dict.fromkeys(
    field.name for field in dataclasses.fields(state_lib.TrainState)
  )
  state = tree.likeness(state_lib.TrainState, **(absent | found['state']))
  return Restored(state, json.loads(found['progress']['json']))


def check_step(directory: pathlib.Path, step: int, there: list[int]) -> None:
  """Raises ValueError if a step is not among those that are there."""
  if step not in there:
    raise ValueError(
      f'expected one of the steps {", ".join(map(str, there))} under {directory}, '
      f'found step {step}; name one of them'
    )


def missing(directory: pathlib.Path) -> ValueError:
  """The error of a run that has no checkpoint yet."""
  return ValueError(
    f'expected a checkpoint under {directory}, found none; train first, or name '
    'another work directory'
  )


def _fields(state: state_lib.TrainState) -> dict[str, Any]:
  return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def abstract(state: Any, shardings: Any) -> Any:
  """Shapes and types of `state` (a tree of arrays or shapes) on the given shardings."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    state,
    shardings,
  )
