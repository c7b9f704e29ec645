"""One training in a work directory: with kernel locks and without, alive and dead."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from transfusion_jax.core import command
from transfusion_jax.training import lock

HOLD = """
import sys, pathlib, time
from transfusion_jax.training import lock
with lock.Lock(pathlib.Path(sys.argv[1])):
  print('held', flush=True)
  time.sleep(60)
"""


@pytest.fixture
def path(tmp_path) -> pathlib.Path:
  return tmp_path / 'new' / 'lock'


@pytest.fixture
def quick(monkeypatch):
  """Beats of 50 ms."""
  monkeypatch.setattr(lock, 'BEAT', 0.05)


@pytest.fixture
def no_kernel_locks(monkeypatch):
  def flock(*_):
    raise OSError(95, 'Operation not supported')

  monkeypatch.setattr(lock.fcntl, 'flock', flock)


def elsewhere(path, **changes):
  """The content of the file as a process on another machine leaves it."""
  owner = {'key': 'k', 'host': 'far', 'pid': 7, 'boot': 'b', 'count': 3, **changes}
  path.parent.mkdir(exist_ok=True)
  path.write_text(json.dumps(owner))


def test_one_at_a_time_and_free_afterwards(path):
  with lock.Lock(path) as held:
    with pytest.raises(ValueError, match=f'found process {os.getpid()} on .* at work'):
      lock.Lock(path).__enter__()
    held.check()
  assert path.read_bytes() == b''
  with lock.Lock(path):
    pass


def test_a_process_that_was_killed_holds_nothing(path, environment):
  with subprocess.Popen(
    [sys.executable, '-c', HOLD, str(path)],
    env=environment(),
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == 'held\n'
    with pytest.raises(ValueError, match=f'found process {process.pid} on'):
      lock.Lock(path).__enter__()
    process.send_signal(signal.SIGKILL)
  began = time.monotonic()
  with lock.Lock(path):
    assert time.monotonic() - began < lock.BEAT  # the kernel knows: nothing to wait for


def test_an_owner_elsewhere_that_counts_is_alive(path, quick):
  elsewhere(path)
  counting = threading.Timer(0.1, lambda: elsewhere(path, count=4))
  counting.start()
  with pytest.raises(ValueError, match='found process 7 on far at work'):
    lock.Lock(path).__enter__()
  counting.join()


def test_an_owner_elsewhere_that_has_stopped_counting_is_dead(path, quick):
  elsewhere(path)
  with lock.Lock(path):
    assert json.loads(path.read_text())['pid'] == os.getpid()


@pytest.mark.usefixtures('quick', 'no_kernel_locks')
def test_without_kernel_locks_the_count_alone_decides(path):
  with lock.Lock(path), pytest.raises(ValueError, match='at work'):
    lock.Lock(path).__enter__()
  with lock.Lock(path):
    pass


@pytest.mark.usefixtures('quick', 'no_kernel_locks')
def test_of_two_that_find_it_dead_one_gets_it(path):
  elsewhere(path)
  got, refused = [], []

  def take():
    mine = lock.Lock(path)
    try:
      mine.__enter__()
      got.append(mine)
    except ValueError as error:
      refused.append(str(error))

  threads = [threading.Thread(target=take) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert (len(got), len(refused)) == (1, 3)
  got[0].__exit__(None, None, None)


def test_a_run_whose_lock_was_taken_ends_at_its_next_save(path, quick):
  with lock.Lock(path) as held:
    elsewhere(path, host='thief')
    deadline = time.monotonic() + 10
    while held._taken_by is None and time.monotonic() < deadline:
      time.sleep(0.01)
    with pytest.raises(command.Exit, match='found process 7 on thief at work'):
      held.check()
  assert 'thief' in path.read_text()  # left to its owner


@pytest.mark.parametrize('text', ['', '[]', '5', '{"key": []}', '[' * 9999, 'x' * 600])
def test_content_of_any_kind_is_nobodys(path, quick, text):
  path.parent.mkdir()
  path.write_text(text)
  with lock.Lock(path):
    pass


def test_what_cannot_be_a_lock_is_one_line(path):
  path.mkdir(parents=True)
  with pytest.raises(ValueError, match='directory'):
    lock.Lock(path).__enter__()
