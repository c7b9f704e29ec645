"""One training in a work directory: with kernel locks and without, alive and dead."""

import contextlib
import itertools
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
  """Beats of 50 ms, an owner is dead after four."""
  monkeypatch.setattr(lock, 'BEAT', 0.05)
  monkeypatch.setattr(lock, 'PATIENCE', 4)


@pytest.fixture
def no_kernel_locks(monkeypatch):
  def flock(*_):
    raise OSError(95, 'Operation not supported')

  monkeypatch.setattr(lock.fcntl, 'flock', flock)


def note(path):
  return path.with_name('lock.owner')


def elsewhere(path, **changes):
  """What a process on another machine notes."""
  owner = {'key': 'k', 'host': 'far', 'pid': 7, 'boot': 'b', 'count': 3, **changes}
  path.parent.mkdir(exist_ok=True)
  fresh = note(path).with_suffix('.tmp')
  fresh.write_text(json.dumps(owner))
  fresh.replace(note(path))


@contextlib.contextmanager
def counting(path, seconds=60.0):
  """An owner elsewhere that counts, and then is gone."""
  ended = threading.Event()

  def count():
    until = time.monotonic() + seconds
    for beat in itertools.count():
      if ended.wait(0.05) or time.monotonic() > until:
        break
      elsewhere(path, count=beat)
    note(path).unlink(missing_ok=True)

  elsewhere(path)
  thread = threading.Thread(target=count)
  thread.start()
  yield
  ended.set()
  thread.join()


def test_one_at_a_time_and_free_afterwards(path):
  with lock.Lock(path) as held:
    with pytest.raises(ValueError, match=f'found process {os.getpid()} on .* at work'):
      lock.Lock(path).__enter__()
    held.check()
  assert not note(path).exists()
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
  with lock.Lock(path) as held:
    assert time.monotonic() - began < lock.BEAT  # the kernel knows: nothing to wait for
    held.check()


def test_an_owner_elsewhere_that_counts_is_alive(path, quick, monkeypatch):
  monkeypatch.setattr(lock, 'LONGEST', 10)
  with (
    counting(path),
    pytest.raises(ValueError, match='found process 7 on far at work'),
  ):
    lock.Lock(path).__enter__()


def test_an_owner_elsewhere_that_ends_is_waited_for(path, quick, monkeypatch):
  monkeypatch.setattr(lock, 'LONGEST', 10_000)
  with counting(path, seconds=0.5), lock.Lock(path) as held:
    held.check()
    assert json.loads(note(path).read_text())['pid'] == os.getpid()


def test_an_owner_elsewhere_that_has_stopped_counting_is_dead(path, quick):
  elsewhere(path)
  with lock.Lock(path) as held:
    held.check()
    assert json.loads(note(path).read_text())['pid'] == os.getpid()


@pytest.mark.usefixtures('quick')
def test_machines_that_do_not_tell_when_they_started_are_not_the_same(
  path, monkeypatch
):
  monkeypatch.setattr(lock, '_BOOT', pathlib.Path('/nowhere'))
  monkeypatch.setattr(lock, 'LONGEST', 10)
  monkeypatch.setattr(lock.socket, 'gethostname', lambda: 'far')
  with counting(path):
    elsewhere(path, boot='')
    with pytest.raises(ValueError, match='at work'):
      lock.Lock(path).__enter__()


@pytest.mark.usefixtures('quick', 'no_kernel_locks')
def test_without_kernel_locks_the_count_alone_decides(path, monkeypatch):
  monkeypatch.setattr(lock, 'LONGEST', 10)
  with lock.Lock(path), pytest.raises(ValueError, match='at work'):
    lock.Lock(path).__enter__()
  with lock.Lock(path):
    pass


@pytest.mark.usefixtures('quick', 'no_kernel_locks')
@pytest.mark.parametrize('before', [True, False])
def test_of_some_that_take_it_at_the_same_time_one_goes_on(path, before, monkeypatch):
  monkeypatch.setattr(lock, 'SETTLED', 10)
  monkeypatch.setattr(lock, 'LONGEST', 4)
  if before:
    elsewhere(path)
  at_work, most, ended = [], [], []
  ready = threading.Barrier(4)

  def train():
    ready.wait()
    try:
      with lock.Lock(path) as held:
        held.check()
        at_work.append(held)
        most.append(len(at_work))
        time.sleep(2)
        at_work.remove(held)
    except (ValueError, command.Exit) as error:
      ended.append(str(error))

  threads = [threading.Thread(target=train) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert (most, len(ended)) == ([1], 3)


def test_a_run_whose_lock_was_taken_ends_at_its_next_save(path, quick):
  with lock.Lock(path) as held:
    held.check()
    elsewhere(path, host='thief')
    time.sleep(3 * lock.BEAT)
    with pytest.raises(command.Exit, match='found process 7 on thief at work'):
      held.check()
  assert 'thief' in note(path).read_text()  # left to its owner


@pytest.mark.parametrize(
  'text', ['', '[]', '5', '{"key": []}', '[' * 9999, 'x' * 600, '{"pid": 1e999}']
)
def test_a_note_of_any_kind_is_nobodys(path, quick, text):
  path.parent.mkdir()
  note(path).write_text(text)
  with lock.Lock(path) as held:
    held.check()


@pytest.mark.parametrize('name', ['lock', 'lock.owner'])
def test_what_cannot_be_a_lock_is_one_line(path, name):
  path.with_name(name).mkdir(parents=True)
  with pytest.raises(ValueError, match='directory'):
    lock.Lock(path).__enter__()
