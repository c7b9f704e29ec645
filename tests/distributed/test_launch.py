"""The launcher: exit codes, signals, what is heard of whom, and nothing left behind."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def launcher(program: str, *flags: str) -> list[str]:
  """The command line that starts a Python program as three processes."""
  start = [sys.executable, '-m', 'launch.local', '--processes=3', '--devices=2']
  return [*start, *flags, '--', sys.executable, '-c', program]


def launch(program: str, *flags: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    launcher(program, *flags), cwd=ROOT, capture_output=True, text=True, timeout=60
  )


def alive(pid: int) -> bool:
  """Whether a process runs; one that nobody has waited for yet does not."""
  try:
    state = pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0]
  except FileNotFoundError:
    return False
  return state != 'Z'


def pids(folder: pathlib.Path) -> list[int]:
  """Those that have said who they are, once all three have."""
  deadline = time.monotonic() + 60
  while len(list(folder.glob('*.pid'))) < 3 and time.monotonic() < deadline:
    time.sleep(0.02)
  return [int(path.stem) for path in folder.glob('*.pid')]


def waiting(folder: pathlib.Path, *then: str, first: str = '') -> str:
  """A program that says who it is, and waits for the others and then a minute."""
  return '\n'.join(
    (
      'import os, pathlib, signal, sys, time',
      'signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))',
      f'folder, index = pathlib.Path({str(folder)!r}), os.environ["JAX_PROCESS_ID"]',
      first,
      '(folder / f"{os.getpid()}.pid").touch()',
      'while len(list(folder.iterdir())) < 3: time.sleep(0.02)',
      *then,
      'time.sleep(60)',
    )
  )


def test_every_process_is_told_what_it_needs():
  names = ('JAX_PROCESS_ID', 'JAX_NUM_PROCESSES', 'JAX_NUM_CPU_DEVICES')
  done = launch(f'import os; print(*[os.environ[name] for name in {names}])')
  assert done.returncode == 0, done.stderr
  assert sorted(done.stdout.splitlines()) == ['0 3 2', '[1] 1 3 2', '[2] 2 3 2']


def test_the_first_failure_ends_all(tmp_path):
  done = launch(waiting(tmp_path, 'if index == "1": sys.exit(7)'))
  assert done.returncode == 7
  assert done.stderr.splitlines()[-1].startswith('process 1 of 3 ended first, with ex')
  assert len(pids(tmp_path)) == 3
  assert not any(alive(pid) for pid in pids(tmp_path))


def test_the_last_line_says_why():
  done = launch('import os; 1 / int(os.environ["JAX_PROCESS_ID"])')
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1] == (
    'process 0 of 3 ended first, with exit code 1: ZeroDivisionError: division by zero'
  )


@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_launcher_leaves_nobody(tmp_path, how):
  program = launcher(waiting(tmp_path))
  process = subprocess.Popen(program, cwd=ROOT, stderr=subprocess.DEVNULL)
  try:
    children = pids(tmp_path)
    assert len(children) == 3
    process.send_signal(how)
    assert process.wait(timeout=60) == (42 if how == signal.SIGTERM else -how)
  finally:
    process.kill()
    process.wait()
  deadline = time.monotonic() + 10
  while any(map(alive, children)) and time.monotonic() < deadline:
    time.sleep(0.02)
  assert not any(map(alive, children))


@pytest.mark.usefixtures('terminal')
def test_a_closed_terminal_reaches_all(tmp_path):
  heed = (
    'signal.signal(signal.SIGHUP, lambda *_: '
    '((folder / f"{index}.saved").touch(), sys.exit(129)))'
  )
  program = waiting(tmp_path, first=heed)
  process = subprocess.Popen(launcher(program), cwd=ROOT, stderr=subprocess.DEVNULL)
  try:
    children = pids(tmp_path)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 129
  finally:
    process.kill()
    process.wait()
  assert len(list(tmp_path.glob('*.saved'))) == 3
  assert not any(map(alive, children))


def test_nohup_is_respected(tmp_path):
  first = (
    'assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN; '
    'signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))'
  )
  until = 'while not (folder / "go").exists(): time.sleep(0.02)'
  program = waiting(tmp_path, until, 'sys.exit(0)', first=first)
  process = subprocess.Popen(
    ['nohup', *launcher(program)],
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  try:
    assert len(pids(tmp_path)) == 3
    process.send_signal(signal.SIGHUP)
    (tmp_path / 'go').touch()
    assert process.wait(timeout=60) == 0
  finally:
    process.kill()
    process.wait()


MUCH = """
import os, sys
print('begun', flush=True)
print('begun', file=sys.stderr, flush=True)
sys.stdin.readline()
for _ in range(3000):
  print('a' * 99)
  print('a' * 99, file=sys.stderr)
sys.exit(7 * (os.environ['JAX_PROCESS_ID'] == '1'))
"""


@pytest.mark.parametrize('closed', [('stdout',), ('stderr',), ('stdout', 'stderr')])
def test_processes_go_on_when_nobody_reads(closed):
  process = subprocess.Popen(
    launcher(MUCH),
    cwd=ROOT,
    stdin=subprocess.PIPE,
    **dict.fromkeys(closed, subprocess.PIPE),
    **dict.fromkeys({'stdout', 'stderr'} - {*closed}, subprocess.DEVNULL),
  )
  try:
    for name in closed:
      getattr(process, name).readline()
      getattr(process, name).close()
    process.stdin.write(b'go\n' * 3)
    process.stdin.close()
    assert process.wait(timeout=60) == 7
  finally:
    process.kill()
    process.wait()


@pytest.mark.parametrize('sink', ['>&-', '2>&-', '>/dev/full', '2>/dev/full'])
def test_output_that_cannot_be_written_ends_nothing(sink):
  program = launcher('import sys; print("a"); print("b", file=sys.stderr)')
  done = subprocess.run(
    ['sh', '-c', f'exec "$@" {sink}', 'sh', *program], cwd=ROOT, timeout=60
  )
  assert done.returncode == 0


def test_a_dry_run_only_prints(tmp_path):
  done = launch(f'open({str(tmp_path / "file")!r}, "w")', '--dry-run')
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert [f'JAX_PROCESS_ID={index} ' in line for index, line in enumerate(lines)] == (
    [True] * 3
  )
  assert not list(tmp_path.iterdir())
  printed = subprocess.run(lines[1], shell=True, env=dict(os.environ), timeout=60)
  assert printed.returncode == 0
  assert [path.name for path in tmp_path.iterdir()] == ['file']


@pytest.mark.parametrize('command', [[], ['--'], ['--', 'no-such-program']])
def test_a_command_is_needed(command):
  start = [sys.executable, '-m', 'launch.local', '--processes=2', '--devices=4']
  done = subprocess.run([*start, *command], cwd=ROOT, capture_output=True, timeout=60)
  assert done.returncode == 2
  assert b'behind --' in done.stderr.splitlines()[-1]
