"""Checkpoints: the only file that knows Orbax.

A step's folder holds `state` (parameters, average, optimizer, key) and `progress`, a
small JSON text: where the data stands, seconds spent, whatever the run wants back, and
the seal of the arrays (`training/seal.py`).

Nothing that is read is believed before its seal was checked. A run goes on from its
newest good step; newer ones are then set aside, not deleted. A save that fails is told
and forgotten: the run goes on, and the next one may succeed.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from transfusion_jax.core import log, tree
from transfusion_jax.training import processes, seal, storage
from transfusion_jax.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """How often a run is saved, and what stays.

  Attributes:
    every: steps between checkpoints; one is also written at the end.
    newest: newest checkpoints that stay.
    multiples: every step that this divides stays; 0: none for that.
    best: checkpoints that stay because of their `score`.
    score: of metrics.jsonl (`loss_text`) or of an evaluator (`scenes.pair`); the
      highest is best, the lowest after a minus (`-loss_text`). Empty where `best` is 0.
  """

  every: int
  newest: int
  multiples: int
  best: int
  score: str

  def __post_init__(self):
    if self.newest < 1 or self.multiples < 0 or self.best < 0:
      raise ValueError(
        'expected at least one newest checkpoint to stay, and no counts below 0, found '
        f'{self}; change train.checkpoints'
      )
    if bool(self.best) != bool(self.score):
      raise ValueError(
        f'expected best and score together, found best={self.best} and score='
        f'{self.score!r}; set both, for example best=2 and score=-loss_text'
      )


ONE = CheckpointConfig(every=1, newest=1, multiples=0, best=0, score='')
"""For what is saved once."""


@dataclasses.dataclass(frozen=True)
class Restored:
  """A step that was found: the state with its arrays in place, and the progress."""

  state: state_lib.TrainState
  progress: dict[str, Any]


class Checkpoints:
  """The checkpoints of one run, a context manager; saves overlap with training."""

  def __init__(self, directory: pathlib.Path, config: CheckpointConfig):
    """Args: directory: made if absent, freed of what killed saves left; config: what
    stays.
    """
    self._directory, self._config = directory.absolute(), config
    self._checkpointer = self._open()
    self._saving: _Saving | None = None
    self.trouble = ''
    """Why the last save that ended failed; empty if it did not."""

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *error: object) -> None:
    self.wait()
    self._checkpointer.close()

  def steps(self) -> list[int]:
    """The complete steps, ascending; none that is being written."""
    self.wait()
    return sorted(each.step for each in self._checkpointer.checkpoints)

  def save(
    self,
    state: state_lib.TrainState,
    progress: dict[str, Any],
    score: float | None = None,
  ) -> None:
    """Starts writing a step, after the one before is safely on disk, or lost.

    Args:
      state: its arrays may be given away as soon as this returns.
      progress: JSON.
      score: by which it may stay; the higher the better.
    """
    step = int(state.step)
    if step in self.steps():
      return
    fields = _fields(state)
    said = seal.text({'progress': progress, 'arrays': seal.arrays(fields)})
    try:
      self._check_room(state)
      response = self._checkpointer.save_checkpointables_async(
        step,
        {'state': fields, 'progress': said},
        metrics=None if score is None else {'score': score},
      )
    except Exception as error:  # noqa: BLE001, whatever storage says
      self._failed(step, error)
    else:
      self._saving = _Saving(step, response)

  def restore(self, abstract: state_lib.TrainState) -> Restored | None:
    """The newest step that is as it was saved, or None if there is no step at all.

    It is read straight into the shardings that `abstract` carries. Damaged steps that
    are newer are set aside, into `damaged` beside the folder.

    Raises:
      ValueError: no step is good, or the newest good one is of another model.
    """
    damaged: dict[int, str] = {}
    for step in reversed(self.steps()):
      try:
        found = self._read(step, abstract)
      except seal.Damaged as error:
        damaged[step] = str(error)
        continue
      self._set_aside(damaged)
      return found
    if damaged:
      newest = max(damaged)
      raise ValueError(
        f'expected a good checkpoint under {self._directory}, found {len(damaged)} '
        f'damaged; step {newest}: {damaged[newest]}; bring a copy back, or begin anew '
        'in another --workdir'
      )
    return None

  def poll(self) -> None:
    """Tells how the save went that has ended meanwhile, if one has; does not wait."""
    if self._saving and not self._checkpointer.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Returns when what was being saved is on disk and sealed, or known to be lost."""
    if self._saving is None:
      return
    saving, self._saving = self._saving, None
    try:
      saving.response.result()
      if processes.leads():
        seal.write(self._directory / str(saving.step))
    except Exception as error:  # noqa: BLE001, whatever storage says
      self._failed(saving.step, error)
    else:
      self.trouble = ''

  def _open(self):
    policies, config = ocp.training, self._config
    keep = policies.preservation_policies
    kept = [keep.LatestN(config.newest)]
    if config.multiples:
      kept.append(keep.EveryNSteps(config.multiples))
    if config.best:
      kept.append(
        keep.BestN(
          get_metric_fn=lambda metrics: metrics['score'],
          n=config.best,
          keep_checkpoints_without_metrics=False,
        )
      )
    return ocp.training.Checkpointer(
      self._directory,
      save_decision_policy=policies.save_decision_policies.FixedIntervalPolicy(1),
      preservation_policy=keep.AnyPreservationPolicy(kept),
      cleanup_tmp_directories=True,
    )

  def _check_room(self, state: state_lib.TrainState) -> None:
    """Raises OSError where storage cannot take a step; alike on all processes.

    Orbax would find out as well, but waits for five minutes before it gives up.
    """
    trouble = storage.trouble(self._directory.parent, tree.nbytes(_fields(state)))
    if int(processes.largest(int(bool(trouble)))):
      raise OSError(trouble or 'another process cannot write')

  def _failed(self, step: int, error: Exception) -> None:
    self.trouble = ' '.join(str(error).split()) or type(error).__name__
    there = [each for each in steps(self._directory) if each != step]
    kept = f'steps {", ".join(map(str, there))} are there' if there else 'none is there'
    log.warning(f'step {step} could not be saved: {self.trouble}; {kept}')
    self._checkpointer = self._open()  # the old one would tell of it again and again

  def _read(self, step: int, abstract: state_lib.TrainState) -> Restored:
    """A step, if it is good for all processes; each is asked before each part."""
    directory, wanted = self._directory / str(step), _fields(abstract)
    _together(lambda: seal.check(directory) if processes.leads() else None)
    said = _together(lambda: self._load(step, {'progress': None})['progress'])
    sealed = _together(lambda: seal.read_text(said))
    _check_model(sealed['arrays'], wanted, step, self._directory)
    found = _together(lambda: self._load(step, {'state': wanted})['state'])
    _together(lambda: seal.check_arrays(sealed['arrays'], found))
    return Restored(state_lib.TrainState(**found), sealed['progress'])

  def _load(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
    return _loaded(self._checkpointer, step, wanted)

  def _set_aside(self, damaged: Mapping[int, str]) -> None:
    for step, reason in damaged.items():
      if processes.leads():
        place = self._directory.parent / 'damaged' / str(step)
        place = storage.set_aside(self._directory / str(step), place)
        log.info(f'step {step} is damaged ({reason}); set aside as {place}')
    if damaged:
      processes.meet('damaged steps set aside')
      self._checkpointer.reload()


@dataclasses.dataclass(frozen=True)
class _Saving:
  """A save under way."""

  step: int
  response: Any


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
    ValueError: there is no checkpoint, none of that step, or it is damaged.
  """
  there = steps(directory)
  if not there:
    raise missing(directory)
  if step is not None:
    check_step(directory, step, there)
  step = there[-1] if step is None else step
  try:
    found, progress = _parts(directory, wanted, step)
  except seal.Damaged as error:
    raise ValueError(
      f'expected step {step} under {directory} as it was saved, found it damaged: '
      f'{error}; name another --step'
    ) from error
  absent = dict.fromkeys(
    field.name for field in dataclasses.fields(state_lib.TrainState)
  )
  state = tree.likeness(state_lib.TrainState, **(absent | found))
  return Restored(state, progress)


def _parts(
  directory: pathlib.Path, wanted: dict[str, Any], step: int
) -> tuple[dict[str, Any], dict[str, Any]]:
  seal.check(directory / str(step))
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  with (
    context,
    ocp.training.Checkpointer(directory.absolute(), context=context) as reader,
  ):
    sealed = seal.read_text(_loaded(reader, step, {'progress': None})['progress'])
    _check_model(sealed['arrays'], wanted, step, directory)
    found = _loaded(reader, step, {'state': wanted})['state']
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
  """The error of a run that has no checkpoint yet."""
  return ValueError(
    f'expected a checkpoint under {directory}, found none; train first, or name '
    'another work directory'
  )


def abstract(state: Any, shardings: Any) -> Any:
  """Shapes and types of `state` (a tree of arrays or shapes) on the given shardings."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    state,
    shardings,
  )


def _fields(state: state_lib.TrainState) -> dict[str, Any]:
  return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def _check_model(
  sealed: Mapping[str, str], wanted: dict[str, Any], step: int, directory: pathlib.Path
) -> None:
  """Raises ValueError if a step holds other arrays than are wanted of its fields."""
  has = {path: kind for path, kind in sealed.items() if path.split('/')[0] in wanted}
  lines = seal.unlike(has, seal.signature(wanted))
  if lines:
    more = f' (and {len(lines) - 4} more)' if len(lines) > 4 else ''
    raise ValueError(
      f'expected step {step} under {directory} to hold the model of this config, found '
      f'surplus - and missing +: {", ".join(lines[:4])}{more}; take back the change of '
      'the config'
    )


def _loaded(reader: Any, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
  """Items of a step; Damaged, whatever it is that keeps them from being read."""
  try:
    found = reader.load_checkpointables(step, wanted)
    return {name: found[name] for name in wanted}
  except Exception as error:  # whatever is wrong with it
    reason = ' '.join(str(error).split())[:200]
    raise seal.Damaged(f'{", ".join(wanted)} cannot be read: {reason}') from error


def _together(act: Callable[[], Any]) -> Any:
  """Does something; Damaged for all processes if it is for one."""
  reason, found = '', None
  try:
    found = act()
  except seal.Damaged as error:
    reason = str(error)
  if int(processes.largest(int(bool(reason)))):
    raise seal.Damaged(reason or 'another process cannot read it')
  return found
