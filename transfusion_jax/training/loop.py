"""The loop: takes batches, steps, shows progress, writes metrics, saves, stops."""

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
  """How long, and how often what is done.

  Attributes:
    steps: of the whole run, resumed or not.
    microbatches: parts of a batch that are computed one after the other.
    log_every: steps between lines of `metrics.jsonl`.
    compile_cache: folder in which compiled programs are kept for the next start; empty:
      none, `workdir`: one in the work directory. JAX_COMPILATION_CACHE_DIR goes first.
    checkpoints: how often a run is saved, and what stays.
    guard: what is done with a batch whose loss is NaN or infinite.
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
  """Batches on the devices, and where the data stands."""

  def __next__(self) -> Any:
    """The next batch."""

  def get_state(self) -> dict[str, Any]:
    """Where the data stands after the last batch given, as JSON."""

  def given(self) -> feed.Given:
    """What was given since this was last asked for."""

  @property
  def unit(self) -> str:
    """What data is counted in: 'tokens', say."""


@dataclasses.dataclass(frozen=True)
class Callback:
  """What is done between steps and changes nothing, such as an evaluation.

  Attributes:
    every: steps between; 0: it is never done.
    act: is given the state, whose arrays it must not give away.
  """

  every: int
  act: Callable[[state_lib.TrainState], None]

  def __call__(self, state: state_lib.TrainState) -> None:
    """Acts; whatever fails it, training goes on."""
    try:
      self.act(state)
    except Exception as error:  # noqa: BLE001, a program of the user's may be at work
      reason = f'{type(error).__name__}: {command.line(error)}'
      log.warning(f'step {int(state.step)} could not be evaluated: {reason}')


@dataclasses.dataclass(frozen=True)
class LoopContext:
  """What a run writes to, listens to and is timed by.

  Attributes:
    name: of the stage, for the progress bar.
    log: `metrics.jsonl`.
    checkpoints: where steps are saved.
    score: of a step, by which its checkpoint may stay.
    restore: puts back what has gone from the work directory.
    stop: asked after every step, by all processes.
    account: of the run's time, goes on from earlier parts.
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
  """Trains until `config.steps`, or until asked to stop; the last step is saved.

  Args:
    state: where to begin; its arrays are given away to the first step.
    step: the jitted step, which may donate its state.
    batches: data, already placed behind what `state` has seen.
    config: how long.
    around: what is written to and listened to.
    schedule: learning rate by step, for the log.
    callback: between steps, but not after the last; the speed leaves its time out.

  Raises:
    command.Exit: the data ended before the steps did, or failed, behind a save of what
      was learnt; too many batches were broken; or the last step could not be saved.
  """
  account, stop = around.account, around.stop
  done = int(state.step)
  lines, trouble = _Lines(batches, config, around, schedule), None
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
  """The next batch; None at the end of the data, and what failed it, if anything did.

  One of several processes that fails cannot save, for the others have no reason to:
  there, the error goes on at once.
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
    command.Exit: what the user can mend.
    Exception: the same as came from the data, where it is a bug.
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
  """The lines of `metrics.jsonl`, from what the steps since the last one measured."""

  def __init__(
    self,
    batches: Batches,
    config: TrainConfig,
    around: LoopContext,
    schedule: Callable[[int], Any],
  ):
    self._batches, self._around, self._schedule = batches, around, schedule
    self._guard = guard.Guard(config.guard)
    self._measured: list[step_lib.Metrics] = []
    self._since = time.monotonic()

  def taken(self, measured: step_lib.Metrics) -> None:
    """A step was taken; its metrics are not waited for."""
    self._measured.append(measured)

  @property
  def pending(self) -> bool:
    """Whether steps were taken of which no line tells yet."""
    return bool(self._measured)

  @contextlib.contextmanager
  def left_out(self) -> Iterator[None]:
    """What is done within takes no part in the speed."""
    began = time.monotonic()
    yield
    self._since += time.monotonic() - began

  def write(self, done: int) -> str:
    """Writes a line; what the progress bar shows of it."""
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
