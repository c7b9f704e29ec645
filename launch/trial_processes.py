"""Trials of a sweep as processes on this machine, several at a time.

The output of each goes to its own file. A failed trial is restarted in its work
directory, where `train` continues from its checkpoint, unless its configuration is
wrong. Signals go to all trials, which then save and end; no new trial starts. If the
sweep is killed, its trials are killed too.
"""

import contextlib
import dataclasses
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from launch import command_line, local
from transfusion_jax.core import log
from transfusion_jax.sweeping import ledger as ledger_lib
from transfusion_jax.training import preemption

PAUSE = 0.1
"""Seconds between checks for ended processes."""


@dataclasses.dataclass(frozen=True)
class Job:
  """Trial to run as a process.

  Attributes:
    number: number of the trial.
    overrides: overrides of the trial, for the ledger.
    command: program and arguments.
    output: file to which its output is appended.
  """

  number: int
  overrides: Mapping[str, object]
  command: Sequence[str]
  output: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Policy:
  """Policy for running trials.

  Attributes:
    processes: number of trials at a time.
    retries: maximum number of restarts of a failed trial, over all starts of the sweep.
    stops: True if the sweep ends when the first trial is given up.
  """

  processes: int
  retries: int
  stops: bool


class Sweep:
  """Runner of the jobs of a sweep."""

  def __init__(
    self,
    jobs: Sequence[Job],
    ledger: ledger_lib.Ledger,
    policy: Policy,
    *,
    prepare: Callable[[int, Collection[int], Collection[int]], bool],
    scores: Callable[[int], Mapping[str, float]],
    ended: Callable[[], None],
  ):
    """Sets up the sweep without jobs that are done or have failed too often.

    Args:
      jobs: jobs in the order of their start.
      ledger: ledger of the sweep.
      policy: number of processes, and treatment of failures.
      prepare: called as `prepare(trial, running, done)` before a trial starts; returns
        False if it has to wait.
      scores: returns the scores of a finished trial.
      ended: called whenever a trial has ended.
    """
    self._ledger, self._policy = ledger, policy
    self._prepare, self._scores, self._ended = prepare, scores, ended
    self._asked, self._over = 0, False  # signal received; no new trial starts
    self._running: dict[int, tuple[Job, subprocess.Popen, float]] = {}
    finished = ledger_lib.done(ledger.records)
    left = [job for job in jobs if job.number not in finished]
    self._waiting = [j for j in left if self._failures(j) <= policy.retries]
    self._given_up = {job.number for job in left} - {j.number for j in self._waiting}

  def run(self) -> int:
    """Runs all jobs; returns 0, 1 if one was given up, or the exit code of a stop."""
    for number in sorted(self._given_up):
      log.info(f'trial {number:03d}: failed too often; raise --retries to try again')
    self._over = bool(self._given_up) and self._policy.stops
    with self._listening():
      try:
        while self._running or (self._waiting and not self._over):
          self._begin()
          self._look()
          time.sleep(PAUSE)
      finally:
        for _, process, _ in self._running.values():
          process.kill()
    if self._asked:
      return preemption.EXIT_CODES[signal.Signals(self._asked)]
    return 1 if self._given_up else 0

  def _begin(self) -> None:
    """Starts jobs while there are free processes."""
    done = ledger_lib.done(self._ledger.records)
    for job in list(self._waiting):
      if self._over or len(self._running) >= self._policy.processes:
        return
      if not self._prepare(job.number, self._running.keys(), done):
        continue
      self._waiting.remove(job)
      self._record(job, 'running')
      log.info(f'trial {job.number:03d}: begins, {_shown(job.overrides)}')
      self._running[job.number] = (job, _start(job), time.monotonic())
      if self._asked:  # meanwhile
        self._send(self._asked)

  def _look(self) -> None:
    """Handles processes that have ended."""
    for job, process, began in list(self._running.values()):
      code = process.poll()
      if code is not None:
        del self._running[job.number]
        code = 128 - code if code < 0 else code
        self._deal(job, code, time.monotonic() - began)
        self._ended()

  def _deal(self, job: Job, code: int, seconds: float) -> None:
    name = f'trial {job.number:03d}'
    if code == 0:
      scores = self._scores(job.number)
      self._record(job, 'done', code=code, seconds=seconds, scores=scores)
      log.info(f'{name}: done in {seconds:.0f} s')
    elif self._over or code == command_line.RETRY:
      self._record(job, 'stopped', code=code, seconds=seconds)
      log.info(f'{name}: stopped, and goes on from what it saved')
      self._waiting.insert(0, job)
    else:
      said = f'failed with exit code {code}: {_last_words(job.output)}'
      tried = self._failures(job)
      again = code != command_line.USER_ERROR and tried < self._policy.retries
      status = 'failed' if again or self._policy.stops else 'skipped'
      self._record(job, status, code=code, seconds=seconds)
      if again:
        log.info(f'{name}: {said}; retry {tried + 1} of {self._policy.retries}')
        self._waiting.insert(0, job)
        return
      log.info(f'{name}: {said}; given up, see {job.output}')
      self._given_up.add(job.number)
      if self._policy.stops:
        self._over = True
        self._send(signal.SIGTERM)

  def _failures(self, job: Job) -> int:
    return ledger_lib.failures(self._ledger.records, job.number)

  def _record(self, job: Job, status, *, code=None, seconds=None, scores=None) -> None:
    self._ledger.add(
      ledger_lib.Record(
        trial=job.number,
        overrides=job.overrides,
        status=status,
        exit_code=code,
        seconds=None if seconds is None else round(seconds, 3),
        scores=scores or {},
      )
    )

  def _send(self, number: int) -> None:
    for _, process, _ in self._running.values():
      process.send_signal(number)

  @contextlib.contextmanager
  def _listening(self) -> Iterator[None]:
    def listen(number, frame):
      del frame
      self._asked, self._over = number, True
      self._send(number)

    before = {number: signal.signal(number, listen) for number in preemption.heeded()}
    try:
      yield
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)


def _start(job: Job) -> subprocess.Popen:
  """Starts a job in its own session: Ctrl-C reaches the sweep, which forwards it."""
  job.output.parent.mkdir(parents=True, exist_ok=True)
  program = [sys.executable if job.command[0] == 'python' else job.command[0]]
  with job.output.open('ab') as output:
    return subprocess.Popen(
      [*program, *job.command[1:]],
      stdin=subprocess.DEVNULL,
      stdout=output,
      stderr=subprocess.STDOUT,
      start_new_session=True,
      preexec_fn=local.end_with_launcher,
    )


def _last_words(path: pathlib.Path) -> str:
  lines = path.read_text(errors='replace').replace('\r', '\n').strip().splitlines()
  return lines[-1] if lines else 'it said nothing'


def _shown(overrides: Mapping[str, object]) -> str:
  if not overrides:
    return 'with nothing changed'
  return shlex.join(f'{name}={value}' for name, value in overrides.items())
