"""Checkpoints of a run in progress; other programs use `checkpoint_reader.py`.

The folder of a step holds `state` (parameters, average, optimizer, key) and `progress`,
a small JSON text: position in the data, seconds spent, and the seal of the arrays
(`training/seal.py`).

Everything that is read is checked against its seal. A run resumes from its newest
intact step; damaged newer ones are moved away, not deleted. A failed save is logged and
the run continues, since the next one may succeed.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from transfusion_jax.core import command, log, tree
from transfusion_jax.training import checkpoint_reader as reader
from transfusion_jax.training import processes, seal, storage
from transfusion_jax.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """Interval of checkpoints, and which of them are kept.

  Attributes:
    every: steps between checkpoints; another one is written at the end.
    newest: number of newest checkpoints to keep.
    multiples: checkpoints of steps that are multiples of this are kept, step 0
      included; 0: none.
    best: number of checkpoints to keep for the best `score`.
    score: metric in metrics.jsonl (`loss_text`) or of an evaluator (`scenes.pair`);
      higher is better, or lower with a minus (`-loss_text`). Empty if `best` is 0.
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
"""Config for states that are saved only once."""


class Checkpoints:
  """Checkpoints of one run, a context manager; saving overlaps with training."""

  def __init__(
    self,
    directory: pathlib.Path,
    config: CheckpointConfig,
    *,
    saved: Callable[[int], None] = lambda step: None,
  ):
    """Opens the folder of a run.

    Args:
      directory: folder, created if absent; remains of interrupted saves are deleted.
      config: checkpoints to keep.
      saved: called in the first process with every step that is on disk.
    """
    self._directory, self._config = directory.absolute(), config
    self._saved = saved
    self._checkpointer = self._open()  # None from a failed save to the next one
    self._saving: _Saving | None = None
    self.trouble = ''
    """Error of the last finished save; empty if it succeeded."""

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
    if error is not None and jax.process_count() > 1:
      return  # the others may be at another point: waiting for them could take forever
    self.wait()
    if self._checkpointer:
      self._checkpointer.close()

  def steps(self) -> list[int]:
    """Complete steps in ascending order; waits for a save in progress."""
    self.wait()
    if self._checkpointer is None:
      return reader.steps(self._directory)
    return sorted(each.step for each in self._checkpointer.checkpoints)

  def save(
    self,
    state: state_lib.TrainState,
    progress: dict[str, Any],
    score: float | None = None,
  ) -> None:
    """Starts writing a step, after the previous save has succeeded or failed.

    Args:
      state: state to save; its arrays may be donated as soon as this returns.
      progress: JSON value.
      score: score that decides if the step is kept; higher is better.

    Raises:
      command.Exit: the state contains NaN or infinity.
    """
    step = int(state.step)
    self.wait()
    if self._has(step):
      return
    fields = _fields(state)
    _check_finite(step, fields)
    said = {'step': step, 'progress': progress, 'arrays': seal.arrays(fields)}
    trouble = self._room(state)
    trouble = trouble or self._start(
      step, {'state': fields, 'progress': seal.text(said)}, score
    )
    if trouble:
      self._failed(step, trouble)

  def restore(self, abstract: state_lib.TrainState) -> reader.Restored | None:
    """Restores the newest intact step; None if there is no step at all.

    Arrays are read into the shardings of `abstract`. Newer damaged steps are moved to
    `damaged` beside the folder.

    Raises:
      ValueError: no step is intact, or the newest intact one is of another model.
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
    """Reports a save that has finished meanwhile, if any, without waiting.

    Several processes would have to wait for each other: they report before the next
    save.
    """
    alone = jax.process_count() == 1
    if alone and self._saving and not self._checkpointer.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Waits until the save in progress is on disk and sealed, or has failed."""
    if self._saving is None:
      return
    saving, self._saving = self._saving, None
    trouble = ''
    try:
      saving.response.result()
    except Exception as error:  # noqa: BLE001, whatever storage says
      trouble = _said(error)
    trouble = processes.trouble(trouble)
    if trouble:
      self._failed(saving.step, trouble)
    else:
      self.trouble = ''
      self._seal(saving.step)

  def _seal(self, step: int) -> None:
    """Seals the files of a step; without a seal only its arrays can be checked."""
    if processes.leads():
      try:
        seal.write(self._directory / str(step))
        self._saved(step)
      except (OSError, seal.Damaged) as error:
        log.warning(f'step {step} is saved, its files could not be sealed: {error}')

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

  def _start(self, step: int, items: dict[str, Any], score: float | None) -> str:
    """Starts saving a step with Orbax; returns the error, or an empty text."""
    try:
      self._checkpointer = self._checkpointer or self._open()
      response = self._checkpointer.save_checkpointables_async(
        step, items, metrics=None if score is None else {'score': score}
      )
    except Exception as error:
      if jax.process_count() > 1:
        raise  # the others wait inside Orbax until this process ends
      return _said(error)
    self._saving = _Saving(step, response)
    return ''

  def _has(self, step: int) -> bool:
    """True if a step exists, as seen by the first process, which creates its folder."""
    if self._checkpointer is None:
      return False
    saved = [each.step for each in self._checkpointer.checkpoints]
    there = step in saved and step in storage.numbers(self._directory)
    return not processes.trouble('' if there or not processes.leads() else 'it is gone')

  def _room(self, state: state_lib.TrainState) -> str:
    """Reason why storage cannot take a step in any process; empty if it can.

    Orbax would fail as well, but only after waiting for five minutes.
    """
    needed = tree.nbytes(_fields(state))
    return processes.trouble(storage.trouble(self._directory, needed))

  def _failed(self, step: int, trouble: str) -> None:
    self.trouble = trouble
    there = [each for each in storage.numbers(self._directory) if each != step]
    kept = f'steps {", ".join(map(str, there))} are there' if there else 'none is there'
    log.warning(f'step {step} could not be saved: {self.trouble}; {kept}')
    self._checkpointer = None  # it would raise the same error again and again

  def _read(self, step: int, abstract: state_lib.TrainState) -> reader.Restored:
    """Reads a step; processes agree after each part that it is intact for all."""
    directory, wanted = self._directory / str(step), _fields(abstract)
    _together(lambda: seal.check(directory) if processes.leads() else None)
    said = _together(lambda: self._load(step, {'progress': None})['progress'])
    sealed = _together(lambda: seal.read_progress(said, step))
    reader.check_model(sealed['arrays'], wanted, step=step, directory=self._directory)
    found = _together(lambda: self._load(step, {'state': wanted})['state'])
    _together(lambda: seal.check_arrays(sealed['arrays'], found))
    return reader.Restored(state_lib.TrainState(**found), sealed['progress'])

  def _load(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
    return reader.loaded(self._checkpointer, step, wanted)

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
  """Save in progress."""

  step: int
  response: Any


def _together(act: Callable[[], Any]) -> Any:
  """Calls a function; raises Damaged in all processes if it does in one."""
  reason, found = '', None
  try:
    found = act()
  except seal.Damaged as error:
    reason = str(error)
  reason = processes.trouble(reason)
  if reason:
    raise seal.Damaged(reason)
  return found


def _said(error: Exception) -> str:
  return ' '.join(str(error).split()) or type(error).__name__


def _check_finite(step: int, fields: dict[str, Any]) -> None:
  broken = seal.not_finite(fields)
  if broken:
    more = f' and {len(broken) - 1} more' if len(broken) > 1 else ''
    raise command.Exit(
      2,
      f'error: expected numbers in the state behind step {step}, found infinity or NaN '
      f'in {broken[0]}{more}; it is not saved; lower the learning rate, and start '
      'again, which goes on from the newest step that is there',
    )


def _fields(state: state_lib.TrainState) -> dict[str, Any]:
  return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
