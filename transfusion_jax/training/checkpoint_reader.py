"""Reader of checkpoints, whole or in part, even while the run continues."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from transfusion_jax.core import command, json_text, tree
from transfusion_jax.training import seal, storage
from transfusion_jax.training import state as state_lib

METADATA = '_CHECKPOINT_METADATA'


@dataclasses.dataclass(frozen=True)
class Restored:
  """Step read from disk: the state with its arrays on the devices, and the progress."""

  state: state_lib.TrainState
  progress: dict[str, Any]

  def part(self, field: str) -> Any:
    """Field of the state by its name."""
    return getattr(self.state, field)


def steps(directory: pathlib.Path) -> list[int]:
  """Complete steps of a run in ascending order; the run may continue meanwhile."""
  if not directory.is_dir():
    return []
  _check_metadata(directory)
  with ocp.training.Checkpointer(directory.absolute()) as reader:
    return sorted(each.step for each in reader.checkpoints)


def _check_metadata(directory: pathlib.Path) -> None:
  """Checks the metadata that Orbax reads, unchecked, of every step to list them.

  Raises:
    ValueError: it is not a JSON object, or not a regular file (reading could block).
  """
  for step in storage.numbers(directory):
    path = directory / str(step) / METADATA
    try:
      if path.is_file():
        json_text.parse_object(path.read_bytes())
      elif path.exists():
        raise ValueError('expected a file, found something else')
    except FileNotFoundError:
      continue  # the step is being removed
    except (ValueError, OSError) as error:
      raise ValueError(
        f'expected checkpoints under {directory} that can be listed, found step {step} '
        f'damaged: {METADATA}: {command.line(error)}; move the folder {step} away'
      ) from error


def which(directory: pathlib.Path, step: int | None) -> int:
  """Returns `step` if it exists, or the newest step for None.

  Raises:
    ValueError: there is no checkpoint at all, or none of that step.
  """
  there = steps(directory)
  if not there:
    raise missing(directory)
  if step is not None:
    check_step(directory, step, there)
  return there[-1] if step is None else step


def named(directory: pathlib.Path, asked: str) -> int:
  """Step given by a flag as a number or as `latest`.

  Raises:
    ValueError: the text is neither, or there is no such checkpoint.
  """
  if asked != 'latest' and not re.fullmatch('[0-9]{1,18}', asked):
    raise ValueError(
      f'expected --step to be a number or latest, found {asked!r}; the steps that are '
      f'there: {", ".join(map(str, steps(directory))) or "none"}'
    )
  return which(directory, None if asked == 'latest' else int(asked))


def arrays(
  directory: pathlib.Path, step: int
) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
  """Shape and type of every array of a step, by path; ValueError if damaged."""
  try:
    sealed = _sealed(directory, step)
  except seal.Damaged as error:
    raise _told(directory, step, error) from error
  kinds = seal.kinds(sealed['arrays'])
  return {tuple(path.split('/')): kind for path, kind in kinds.items()}


def read(
  directory: pathlib.Path,
  wanted: dict[str, Any],
  step: int | None = None,
  *,
  whole: bool = True,
) -> Restored:
  """Reads parts of the state of a step.

  Args:
    directory: folder of `Checkpoints`.
    wanted: shapes and shardings by field of the state, for example `{'ema': shapes}`.
    step: number of the step; None: the newest.
    whole: if True, these fields must not hold other arrays than the wanted ones.

  Returns:
    The state, whose other fields are None, and the progress.

  Raises:
    ValueError: there is no checkpoint, none of that step, or it is damaged.
  """
  chosen = which(directory, step)
  try:
    found, progress = _parts(directory, wanted, chosen, whole=whole)
  except seal.Damaged as error:
    if step is None and which(directory, None) != chosen:
      return read(directory, wanted, whole=whole)  # a newer one has taken its place
    raise _told(directory, chosen, error) from error
  absent = dict.fromkeys(
    field.name for field in dataclasses.fields(state_lib.TrainState)
  )
  state = tree.likeness(state_lib.TrainState, **(absent | found))
  return Restored(state, progress)


def _told(directory: pathlib.Path, step: int, error: seal.Damaged) -> ValueError:
  """Error for the user about a damaged step."""
  if not (directory / str(step)).exists():
    return ValueError(
      f'expected step {step} under {directory}, found it removed meanwhile; name a '
      'newer --step, or keep more with --config.train.checkpoints.newest'
    )
  return ValueError(
    f'expected step {step} under {directory} as it was saved, found it damaged: '
    f'{error}; name another --step'
  )


def _parts(
  directory: pathlib.Path, wanted: dict[str, Any], step: int, *, whole: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
  seal.check(directory / str(step))
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  with (
    context,
    ocp.training.Checkpointer(directory.absolute(), context=context) as reader,
  ):
    said = loaded(reader, step, {'progress': None})['progress']
    sealed = seal.read_progress(said, step)
    has = sealed['arrays']
    if not whole:
      has = {path: has[path] for path in seal.signature(wanted) if path in has}
    check_model(has, wanted, step=step, directory=directory)
    found = loaded(reader, step, {'state': wanted})['state']
  seal.check_arrays(sealed['arrays'], found)
  return found, sealed['progress']


def check_step(directory: pathlib.Path, step: int, there: list[int]) -> None:
  """Raises ValueError if a step is not among those that are there."""
  if step not in there:
    raise ValueError(
      f'expected one of the steps {", ".join(map(str, there))} under {directory}, '
      f'found step {step}; name one of them'
    )


def missing(directory: pathlib.Path) -> ValueError:
  """Error for a run without checkpoints."""
  return ValueError(
    f'expected a checkpoint under {directory}, found none; train first, or name '
    'another work directory'
  )


def check_state(directory: pathlib.Path, state: state_lib.TrainState) -> None:
  """Checks that the newest readable step has the model of a state; reads no arrays.

  Raises:
    ValueError: it has another model.
  """
  wanted = {each.name: getattr(state, each.name) for each in dataclasses.fields(state)}
  for step in reversed(steps(directory)):
    try:
      sealed = _sealed(directory, step)
    except seal.Damaged:
      continue  # whoever goes on from here sets it aside
    check_model(sealed['arrays'], wanted, step=step, directory=directory)
    return


def _sealed(directory: pathlib.Path, step: int) -> dict[str, Any]:
  """Progress of a step with the seal of its arrays; raises Damaged if broken."""
  with ocp.training.Checkpointer(directory.absolute()) as found:
    seal.check(directory / str(step))
    said = loaded(found, step, {'progress': None})['progress']
    return seal.read_progress(said, step)


def check_model(
  sealed: Mapping[str, str],
  wanted: dict[str, Any],
  *,
  step: int,
  directory: pathlib.Path,
) -> None:
  """Raises ValueError if the wanted fields of a step have other arrays."""
  has = {path: kind for path, kind in sealed.items() if path.split('/')[0] in wanted}
  lines = seal.unlike(has, seal.signature(wanted))
  if lines:
    more = f' (and {len(lines) - 4} more)' if len(lines) > 4 else ''
    raise ValueError(
      f'expected step {step} under {directory} to hold the model of this config, found '
      f'surplus - and missing +: {", ".join(lines[:4])}{more}; take back the change of '
      'the config'
    )


def loaded(reader: Any, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
  """Loads items of a step; raises Damaged for any error."""
  try:
    found = reader.load_checkpointables(step, wanted)
    return {name: found[name] for name in wanted}
  except Exception as error:  # whatever is wrong with it
    reason = ' '.join(str(error).split())[:200]
    raise seal.Damaged(f'{", ".join(wanted)} cannot be read: {reason}') from error


def abstract(state: Any, shardings: Any) -> Any:
  """Shapes and types of a pytree of arrays or shapes, with the given shardings."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    state,
    shardings,
  )
