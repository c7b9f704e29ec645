"""Trials as processes: retries, policies, signals, and what a kill leaves behind."""

import collections
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch import trial_processes
from transfusion_jax.sweeping import ledger as ledger_lib

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.filterwarnings('ignore:os.fork')  # other tests use devices


def sweep(folder: pathlib.Path, asked: dict) -> int:
  """A sweep whose trials are lines of shell, at work in a folder; its exit code.

  A trial may not begin while there is a file `wait` with its number.
  """
  policy = {'processes': 2, 'retries': 1, 'stops': False, **asked}
  trials = policy.pop('trials')
  jobs = [
    trial_processes.Job(
      number,
      {'seed': number},
      ['sh', '-c', f'cd {folder}; {text}'],
      folder / f'{number}',
    )
    for number, text in enumerate(trials)
  ]
  with ledger_lib.Ledger(folder) as ledger:
    return trial_processes.Sweep(
      jobs,
      ledger,
      trial_processes.Policy(**policy),
      prepare=lambda trial, running, done: not (folder / f'wait{trial}').exists(),
      scores=lambda trial: {'score': trial / 2},
      ended=lambda: None,
    ).run()


PROGRAM = """
import json, pathlib, sys
from tests.sweeping import test_processes
sys.exit(test_processes.sweep(pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])))
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Of a sweep: exit code, and statuses and exit codes by trial in their order."""

  code: int
  statuses: dict[int, list[str]]
  codes: dict[int, list[int]]


def start(folder: pathlib.Path, trials: list[str]) -> subprocess.Popen:
  """The same in a process that may be stopped or killed."""
  return subprocess.Popen(
    [sys.executable, '-c', PROGRAM, str(folder), json.dumps({'trials': trials})],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    stderr=subprocess.DEVNULL,
  )


def told(folder: pathlib.Path, code: int) -> Outcome:
  statuses, codes = collections.defaultdict(list), collections.defaultdict(list)
  for record in ledger_lib.read(folder / 'ledger.jsonl'):
    statuses[record.trial].append(record.status)
    if record.exit_code is not None:
      codes[record.trial].append(record.exit_code)
  return Outcome(code, dict(statuses), dict(codes))


def ended(folder: pathlib.Path, process: subprocess.Popen) -> Outcome:
  return told(folder, process.wait(timeout=60))


def run(folder: pathlib.Path, *trials: str, **policy) -> Outcome:
  return told(folder, sweep(folder, {'trials': trials, **policy}))


def wait_for(*paths: pathlib.Path) -> None:
  deadline = time.monotonic() + 60
  while not all(path.exists() for path in paths):
    assert time.monotonic() < deadline, 'it never came'
    time.sleep(0.02)


def test_failures_are_retried_or_skipped_and_configurations_are_not(tmp_path):
  trials = (
    'true',
    'echo why >&2; exit 1',
    'exit 2',
    'kill -9 $$',
    '[ -e once ] || ! touch once',
  )
  found = run(tmp_path, *trials, retries=2)
  assert found.code == 1
  again = ['running', 'failed']
  assert found.statuses == {
    0: ['running', 'done'],
    1: [*again, *again, 'running', 'skipped'],
    2: ['running', 'skipped'],
    3: [*again, *again, 'running', 'skipped'],
    4: [*again, 'running', 'done'],
  }
  assert found.codes == {0: [0], 1: [1] * 3, 2: [2], 3: [137] * 3, 4: [1, 0]}
  assert (tmp_path / '1').read_text() == 'why\n' * 3
  last = ledger_lib.last(ledger_lib.read(tmp_path / 'ledger.jsonl'))
  assert last[4].scores == {'score': 2.0}
  assert last[4].overrides == {'seed': 4}
  assert last[4].seconds >= 0


def test_what_is_done_stays_done_and_what_failed_is_tried_so_often(tmp_path):
  trials = ('echo begun >> begun', 'exit 3')
  assert run(tmp_path, *trials, retries=0).code == 1
  first = run(tmp_path, *trials, retries=0)
  assert first.code == 1
  assert first.codes == {0: [0], 1: [3]}
  more = run(tmp_path, *trials, retries=2)
  assert more.codes == {0: [0], 1: [3, 3, 3]}
  assert (tmp_path / 'begun').read_text() == 'begun\n'


def test_a_failure_may_stop_the_sweep(tmp_path):
  (tmp_path / 'wait2').touch()
  trials = ('trap "exit 42" TERM; touch up; while :; do sleep 0.05; done',)
  trials += ('while [ ! -e up ]; do sleep 0.05; done; exit 5', 'true')
  found = run(tmp_path, *trials, stops=True, retries=0)
  assert found.code == 1
  assert found.statuses == {0: ['running', 'stopped'], 1: ['running', 'failed']}
  assert found.codes == {0: [42], 1: [5]}
  # Once more, and it is over at once.
  assert run(tmp_path, *trials, stops=True, retries=0) == found


def test_so_many_at_a_time(tmp_path):
  # Trials 0 and 1 end only once both have begun, as do 2 and 3; 4 is alone.
  trial = """
    touch {0}.on {0}.begun
    ls *.on | wc -l >> most
    while [ $(ls *.begun | wc -l) -lt {1} ]; do sleep 0.05; done
    rm {0}.on
  """
  trials = [trial.format(k, least) for k, least in enumerate((2, 2, 4, 4, 5))]
  assert run(tmp_path, *trials, processes=2).code == 0
  counts = (tmp_path / 'most').read_text().split()
  assert len(counts) == 5
  assert max(counts) == '2'


SAVES = """
  trap 'touch saved{0}; exit {1}' {2}
  [ -e saved{0} ] && exit 0
  touch up{0}; while :; do sleep 0.05; done
"""
"""A trial that saves as it is asked to end, and is done the next time."""


@pytest.mark.parametrize(('how', 'code'), [('TERM', 42), ('INT', 130)])
def test_signals_reach_trials_and_nothing_begins_after(tmp_path, how, code):
  trials = [SAVES.format(k, code, how) for k in range(3)]
  process = start(tmp_path, trials)
  wait_for(tmp_path / 'up0', tmp_path / 'up1')
  process.send_signal(getattr(signal, f'SIG{how}'))
  found = ended(tmp_path, process)
  assert found.code == code
  assert found.statuses == {k: ['running', 'stopped'] for k in (0, 1)}
  assert found.codes == {k: [code] for k in (0, 1)}
  (tmp_path / 'saved2').touch()
  assert run(tmp_path, *trials).statuses == {
    **{k: ['running', 'stopped', 'running', 'done'] for k in (0, 1)},
    2: ['running', 'done'],
  }


def test_a_trial_that_was_preempted_begins_again(tmp_path):
  found = run(tmp_path, '[ -e once ] || { touch once; exit 42; }', retries=0)
  assert found.code == 0
  assert found.statuses == {0: ['running', 'stopped', 'running', 'done']}


def test_killed_sweeps_leave_no_process_and_go_on(tmp_path):
  trials = ['touch done0; echo begun >> begun0'] + [
    f'echo $$ > pid{k}; [ -e go ] || sleep 60; echo through >> through{k}'
    for k in (1, 2)
  ]
  process = start(tmp_path, trials)
  wait_for(tmp_path / 'done0', tmp_path / 'pid1', tmp_path / 'pid2')
  process.kill()
  assert ended(tmp_path, process).statuses == {
    0: ['running', 'done'], 1: ['running'], 2: ['running']
  }  # fmt: skip
  for k in (1, 2):
    wait_for_end(int((tmp_path / f'pid{k}').read_text()))
  with (tmp_path / 'ledger.jsonl').open('a') as file:
    file.write('{"trial": 1, "stat')  # the kill cut a line short
  (tmp_path / 'go').touch()
  found = run(tmp_path, *trials)
  assert found.code == 0
  assert found.statuses == {
    0: ['running', 'done'],
    1: ['running', 'running', 'done'],
    2: ['running', 'running', 'done'],
  }
  assert (tmp_path / 'begun0').read_text() == 'begun\n'
  assert (tmp_path / 'through1').read_text() == 'through\n'


def wait_for_end(pid: int) -> None:
  """Until no such process runs; one that nobody has waited for yet does not."""
  deadline = time.monotonic() + 30
  while time.monotonic() < deadline:
    try:
      state = pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()
    except FileNotFoundError:
      return
    if state[0] == 'Z':
      return
    time.sleep(0.02)
  raise AssertionError(f'process {pid} is still there')
