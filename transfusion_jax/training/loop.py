"""The loop: takes batches, steps, shows progress, writes metrics, saves, stops."""

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import tqdm

from transfusion_jax.core import command
from transfusion_jax.training import checkpoint, feed, metrics, preemption, processes
from transfusion_jax.training import state as state_lib
from transfusion_jax.training import step as step_lib


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How long, and how often what is done.

  Attributes:
    steps: of the whole run, resumed or not.
    microbatches: parts of a batch that are computed one after the other.
    log_every: steps between lines of `metrics.jsonl`.
    checkpoint_every: steps between checkpoints; one is also written at the end.
    keep_checkpoints: newest checkpoints that stay on disk.
  """

  steps: int
  microbatches: int
  log_every: int
  checkpoint_every: int
  keep_checkpoints: int


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


@dataclasses.dataclass
class Clock:
  """Seconds a run has taken, earlier parts of it included."""

  before: float
  started: float = dataclasses.field(default_factory=time.monotonic)

  @property
  def seconds(self) -> float:
    return self.before + time.monotonic() - self.started


@dataclasses.dataclass(frozen=True)
class Interlude:
  """What is done between steps and changes nothing, such as an evaluation.

  Attributes:
    every: steps between; 0: it is never done.
    act: is given the state, whose arrays it must not give away.
  """

  every: int
  act: Callable[[state_lib.TrainState], None]

  def __call__(self, state: state_lib.TrainState, step: int) -> float:
    """Acts if it is time to; the seconds that it took."""
    began = time.monotonic()
    if self.every and step % self.every == 0:
      self.act(state)
    return time.monotonic() - began


def fit(
  state: state_lib.TrainState,
  step: step_lib.Step,
  batches: Batches,
  *,
  config: TrainConfig,
  log: metrics.MetricsLog,
  checkpoints: checkpoint.Checkpoints,
  stop: preemption.Stop,
  clock: Clock,
  schedule: Callable[[int], Any],
  interlude: Interlude,
  name: str,
) -> state_lib.TrainState:
  """Trains until `config.steps`, or until asked to stop; the last step is saved.

  Args:
    state: where to begin; its arrays are given away to the first step.
    step: the jitted step, which may donate its state.
    batches: data, already placed behind what `state` has seen.
    config: how long.
    log: `metrics.jsonl`.
    checkpoints: where steps are saved.
    stop: asked after every step, by all processes.
    clock: goes on from the seconds of earlier parts of the run.
    schedule: learning rate by step, for the log.
    interlude: between steps, but not after the last; the speed leaves its time out.
    name: what the progress bar calls this stage.
  """
  done = int(state.step)
  since = time.monotonic()
  with _bar(name, done, config.steps) as bar:
    while done < config.steps and not stop.agreed():
      batch = next(batches, None)
      if batch is None:
        break
      state, measured = step(state, batch)
      done += 1
      bar.update()
      if done % config.log_every == 0 or done == config.steps:
        values = {key: float(value) for key, value in jax.device_get(measured).items()}
        given, before, since = batches.given(), since, time.monotonic()
        speed = sum(given.sizes) / (since - before)
        log.write(
          {'step': done, **values, 'learning_rate': float(schedule(done - 1)),
           f'{batches.unit}_per_second': speed, 'seconds': clock.seconds,
           'data_wait': given.waited / (since - before), 'batches': given.digests,
           **{f'share_{name}': share for name, share in given.shares.items()}}
        )  # fmt: skip
        _check(values, done)
        bar.set_postfix_str(_postfix(values, f'{speed:,.0f} {batches.unit}/s'))
      if done < config.steps:
        since += interlude(state, done)
        if done % config.checkpoint_every == 0:
          checkpoints.save(state, _progress(batches, clock))
  checkpoints.save(state, _progress(batches, clock))
  checkpoints.wait()
  if not stop.exit_code:
    _check_end(done, config)
  return state


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


def _progress(batches: Batches, clock: Clock) -> dict[str, Any]:
  return {'data': batches.get_state(), 'seconds': clock.seconds}


def _postfix(values: dict[str, float], speed: str) -> str:
  losses = [
    f'{key.removeprefix("loss_")} {value:.3f}'
    for key, value in sorted(values.items())
    if key.startswith('loss') and not key[-1].isdigit()
  ]
  return ', '.join([*losses, speed])


def _check(values: dict[str, float], step: int) -> None:
  broken = [key for key, value in values.items() if not np.isfinite(value)]
  if broken:
    raise FloatingPointError(
      f'expected finite losses, found {", ".join(broken)} not finite at step {step}; '
      'lower the learning rate, or start again from the last checkpoint'
    )
