"""The trials of a sweep as processes on this machine, some at a time.

What each says goes to a file of its own. A trial that fails is started again in its
work directory, where `train` goes on from what it saved; one whose configuration is
wrong is not. Signals go to all trials, which then save and end, and nothing new begins.
The end of the sweep is theirs, too, even if it is killed.
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
"""Seconds between looks at what has ended."""


@dataclasses.dataclass(frozen=True)
class Job:
  """What the processes need to know of a trial.

  Attributes:
    number: of the trial.
    overrides: for the ledger.
    command: program and arguments.
    output: file that all it says is added to.
  """

  number: int
  overrides: Mapping[str, object]
  command: Sequence[str]
  output: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Policy:
  """How trials are run.

  Attributes:
    processes: trials at a time.
    retries: times that a trial that fails is started again, over all starts of the
      sweep.
    stops: whether the sweep ends with the first trial that is given up.
  """

  processes: int
  retries: int
  stops: bool


class Sweep:
  """Jobs on their way through."""

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
    """Sets it up; those that are done, or have failed too often, are left out.

    Args:
      jobs: in the order of their beginning.
      ledger: what became of them, and becomes of them.
      policy: how they are run.
      prepare: told of a trial that is to begin, of those at work and of those that are
        done, says whether it may.
      scores: of a trial that is done.
      ended: told whenever a trial has ended.
    """
    self._ledger, self._policy = ledger, policy
    self._prepare, self._scores, self._ended = prepare, scores, ended
    self._asked, self._over = 0, False  # the signal that came; nothing begins any more
    self._running: dict[int, tuple[Job, subprocess.Popen, float]] = {}
    finished = ledger_lib.done(ledger.records)
    left = [job for job in jobs if job.number not in finished]
    self._waiting = [j for j in left if self._failures(j) <= policy.retries]
    self._given_up = {job.number for job in left} - {j.number for j in self._waiting}

  def run(self) -> int:
    """Stays until all have ended; 0, 1 if any was given up, or that of a stop."""
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
    """Starts what there is room for."""
    done = ledger_lib.done(self._ledger.records)
    for job in list(self._waiting):
      if self._over or len(self._running) >= self._policy.processes:
        return
      if not self._prepare(job.number, self._running.keys(), done):
        continue
      self._waiting.remove(job)
      self._record(job, 'running', None, None)
      log.info(f'trial {job.number:03d}: begins, {_shown(job.overrides)}')
      self._running[job.number] = (job, _start(job), time.monotonic())
      if self._asked:  # meanwhile
        self._send(self._asked)

  def _look(self) -> None:
    """Deals with those that have ended."""
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
      self._record(job, 'done', code, seconds, scores)
      log.info(f'{name}: done in {seconds:.0f} s')
    elif self._over or code == command_line.RETRY:
      self._record(job, 'stopped', code, seconds)
      log.info(f'{name}: stopped, and goes on from what it saved')
      self._waiting.insert(0, job)
    else:
      said = f'failed with exit code {code}: {_last_words(job.output)}'
      tried = self._failures(job)
      again = code != command_line.USER_ERROR and tried < self._policy.retries
      self._record(
        job, 'failed' if again or self._policy.stops else 'skipped', code, seconds
      )
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

  def _record(self, job: Job, status, code, seconds, scores=None) -> None:
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
  """In a session of its own: Ctrl-C of a terminal reaches the sweep, and then it."""
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
