"""Training loop: steps, progress bar, metrics, checkpoints, evaluation, stopping."""

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import tqdm

from transfusion_jax.core import command, log, paths
from transfusion_jax.training import (
  checkpoint,
  feed,
  goodput,
  guard,
  metrics,
  preemption,
  processes,
)
from transfusion_jax.training import state as state_lib
from transfusion_jax.training import step as step_lib


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Length of the training loop, and intervals of its actions.

  Attributes:
    steps: total number of steps, including those before a restart.
    microbatches: number of parts of a batch that are computed one after the other.
    log_every: steps between lines of `metrics.jsonl`.
    compile_cache: folder that keeps compiled programs for the next start; empty: none;
      `workdir`: a folder in the work directory. JAX_COMPILATION_CACHE_DIR overrides it.
    checkpoints: interval of checkpoints, and which of them are kept.
    guard: treatment of batches whose loss or gradient is NaN, infinite or too large.
  """

  steps: int
  microbatches: int
  log_every: int
  compile_cache: str
  checkpoints: checkpoint.CheckpointConfig
  guard: guard.GuardConfig

  def __post_init__(self):
    if self.compile_cache not in ('', 'workdir'):
      folder = paths.anywhere(self.compile_cache, 'train.compile_cache')
      object.__setattr__(self, 'compile_cache', folder)


@runtime_checkable
class Batches(Protocol):
  """Interface of a feed: batches on the devices, and the position in the data."""

  def __next__(self) -> Any:
    """Next batch."""

  def get_state(self) -> dict[str, Any]:
    """Position in the data after the last batch, as JSON."""

  def given(self) -> feed.Given:
    """Record of the batches since the last call."""

  @property
  def unit(self) -> str:
    """Unit in which data is counted, for example 'tokens'."""


@dataclasses.dataclass(frozen=True)
class Callback:
  """Callback between steps that does not change the state, such as an evaluation.

  Attributes:
    every: steps between calls; 0: never.
    act: function of the state; it must not donate the state's arrays.
  """

  every: int
  act: Callable[[state_lib.TrainState], None]

  def __call__(self, state: state_lib.TrainState) -> None:
    """Calls `act`; errors are logged and training continues."""
    try:
      self.act(state)
    except Exception as error:  # noqa: BLE001, a program of the user's may be at work
      reason = f'{type(error).__name__}: {command.line(error)}'
      log.warning(f'step {int(state.step)} could not be evaluated: {reason}')


@dataclasses.dataclass(frozen=True)
class LoopContext:
  """Outputs and signals of the training loop.

  Attributes:
    name: name of the stage, for the progress bar.
    log: writer of `metrics.jsonl`.
    checkpoints: checkpoints of the run.
    score: returns the score of a step that decides if its checkpoint is kept.
    restore: restores files that are missing in the work directory.
    stop: stop request, checked by all processes before every step.
    account: time of the run by activity, including earlier parts.
  """

  name: str
  log: metrics.MetricsLog
  checkpoints: checkpoint.Checkpoints
  score: Callable[[int], float | None]
  restore: Callable[[], None]
  stop: preemption.Stop
  account: goodput.Account


def fit(
  state: state_lib.TrainState,
  step: step_lib.Step,
  batches: Batches,
  *,
  config: TrainConfig,
  around: LoopContext,
  schedule: Callable[[int], Any],
  callback: Callback,
) -> state_lib.TrainState:
  """Trains until `config.steps` or a stop request; saves and returns the last state.

  Args:
    state: initial state; its arrays are donated to the first step.
    step: jitted step, which may donate its state.
    batches: data that continues after what `state` has seen.
    config: length of the run, and intervals.
    around: outputs and signals.
    schedule: learning rate by step, for the log.
    callback: callback between steps, not called after the last; its time does not
      count in the logged speed.

  Raises:
    command.Exit: the data ended early or failed (after the state was saved), too many
      batches were broken, or the last step could not be saved.
  """
  account, stop = around.account, around.stop
  done = int(state.step)
  lines, trouble = _Lines(batches, config, around, schedule=schedule), None
  with account.on('step'), _bar(around.name, done, config.steps) as bar:
    while done < config.steps and not stop.agreed():
      with account.on('data'):
        batch, trouble = _next(batches)
      if batch is None:
        break
      state, measured = step(state, batch)
      done += 1
      lines.taken(measured)
      bar.update()
      if done % config.log_every == 0 or done == config.steps:
        bar.set_postfix_str(lines.write(done))
        around.checkpoints.poll()
      if done == config.steps:
        break
      if callback.every and done % callback.every == 0:
        with account.on('evaluation'), lines.left_out():
          callback(state)
      if done % config.checkpoints.every == 0:
        _save(state, batches, around)
    if lines.pending:
      lines.write(done)
    _save(state, batches, around)
    with account.on('save'):
      around.checkpoints.wait()
  if trouble is not None:
    _leave(trouble, done, around)
  if not stop.exit_code:
    _check_end(done, config)
  _check_saved(done, around)
  return state


def _next(batches: Batches) -> tuple[Any, Exception | None]:
  """Next batch, or None at the end of the data; and the error if the data failed.

  With several processes the error is raised at once: a single process cannot save, as
  the others would not take part.
  """
  try:
    return next(batches, None), None
  except Exception as error:
    if jax.process_count() > 1:
      raise
    return None, error


def _leave(trouble: Exception, done: int, around: LoopContext) -> None:
  """Ends a run whose data has failed, after its last step was saved.

  Raises:
    command.Exit: the user can fix the error.
    Exception: the error of the data, if it is a bug.
  """
  if not isinstance(trouble, command.Exit | OSError):
    raise trouble
  code, said = 1, f'error: {command.line(trouble)}'
  if isinstance(trouble, command.Exit):
    code, said = trouble.code, trouble.message
  kept = f'could not be saved ({around.checkpoints.trouble})'
  kept = kept if around.checkpoints.trouble else 'is saved, and a start goes on from it'
  raise command.Exit(code, f'{said}; step {done} {kept}') from trouble


class _Lines:
  """Writer of lines of `metrics.jsonl`, from the metrics since the last line."""

  def __init__(
    self,
    batches: Batches,
    config: TrainConfig,
    around: LoopContext,
    *,
    schedule: Callable[[int], Any],
  ):
    self._batches, self._around, self._schedule = batches, around, schedule
    self._guard = guard.Guard(config.guard)
    self._measured: list[step_lib.Metrics] = []
    self._since = time.monotonic()

  def taken(self, measured: step_lib.Metrics) -> None:
    """Records the metrics of a step without waiting for the devices."""
    self._measured.append(measured)

  @property
  def pending(self) -> bool:
    """True if there are steps since the last line."""
    return bool(self._measured)

  @contextlib.contextmanager
  def left_out(self) -> Iterator[None]:
    """Excludes the time inside the context from the logged speed."""
    began = time.monotonic()
    yield
    self._since += time.monotonic() - began

  def write(self, done: int) -> str:
    """Writes a line; returns the text for the progress bar."""
    measured, self._measured = jax.device_get(self._measured), []
    taken = [{name: float(x) for name, x in each.items()} for each in measured]
    given = self._batches.given()
    before, self._since = self._since, time.monotonic()
    passed, unit = self._since - before, self._batches.unit
    speed = sum(given.sizes) / passed
    skipped = self._guard.look(done - len(taken) + 1, taken, given.digests)
    values = {name: x for name, x in taken[-1].items() if math.isfinite(x)}
    values['skipped'] = skipped
    self._around.log.write(
      {'step': done, **values, 'learning_rate': float(self._schedule(done - 1)),
       f'{unit}_per_second': speed, 'seconds': self._around.account.total,
       'data_wait': given.waited / passed, 'batches': given.digests,
       **{f'share_{name}': share for name, share in given.shares.items()}}
    )  # fmt: skip
    return _postfix(values, f'{speed:,.0f} {unit}/s')


def _save(state: state_lib.TrainState, batches: Batches, around: LoopContext) -> None:
  with around.account.on('save'):
    around.restore()
    progress = {'data': batches.get_state(), 'seconds': around.account.seconds}
    around.checkpoints.save(state, progress, around.score(int(state.step)))


def _bar(name: str, done: int, steps: int) -> tqdm.tqdm:
  return tqdm.tqdm(
    total=steps, initial=done, desc=name, unit='step', file=sys.stderr,
    mininterval=0.5, dynamic_ncols=True, disable=not processes.leads(),
  )  # fmt: skip


def _check_end(done: int, config: TrainConfig) -> None:
  if done < config.steps:
    raise command.Exit(
      2,
      f'error: expected data for {config.steps} steps, found the end of all epochs '
      f'after step {done}, which is saved; raise epochs in data.sources, or set '
      f'--config.train.steps={done}',
    )


def _check_saved(done: int, around: LoopContext) -> None:
  if around.checkpoints.trouble:
    raise command.Exit(
      2,
      f'error: expected to save step {done}, the last one, found '
      f'{around.checkpoints.trouble}; mend that and start again, which goes on from '
      'the newest step that is there',
    )


def _postfix(values: dict[str, float], speed: str) -> str:
  losses = [
    f'{key.removeprefix("loss_")} {value:.3f}'
    for key, value in sorted(values.items())
    if key.startswith('loss') and not key[-1].isdigit()
  ]
  return ', '.join([*losses, speed])
