"""Lock of a work directory: one training at a time, on any file system.

The kernel locks the file `lock` (`flock`) if the file system supports it, and releases
it when the process dies. The file `lock.owner` names the owner, which increments a
counter in it as long as it lives. On the owner's machine the kernel lock decides. On
other machines, and on file systems without such locks or with locks that other machines
do not see, the counter decides: an owner whose counter has not changed for a while is
dead. Clocks are not compared.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
import types
import uuid
from typing import Any

from transfusion_jax.core import command, json_text, log
from transfusion_jax.training import processes

BEAT = 5.0
"""Seconds between two increments of the counter."""

PATIENCE = 16
"""Beats after which an unchanged counter means death; buckets may lag by a minute."""

LONGEST = 32
"""Beats to wait for an owner on another machine to end, such as one that is saving."""

SETTLED = 0.5
"""Beats after which two processes that took the lock together see each other."""

_BOOT = pathlib.Path('/proc/sys/kernel/random/boot_id')


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Owner:
  """Owner of the lock.

  Attributes:
    key: unique key of the process.
    host: name of its machine.
    pid: process number.
    boot: identifier of the machine's boot; empty if unknown.
    count: counter of beats.
  """

  key: str
  host: str
  pid: int
  boot: str
  count: int

  def beside(self, other: '_Owner') -> bool:
    """True if both run on the same machine."""
    return bool(self.boot) and (self.host, self.boot) == (other.host, other.boot)


class Lock:
  """Lock of a work directory, a context manager; the first process takes it."""

  def __init__(self, path: pathlib.Path):
    """Args: path: file of the lock; its folder is created when the lock is taken."""
    self._path, self._note = path, path.with_name(f'{path.name}.owner')
    boot = _BOOT.read_text().strip() if _BOOT.exists() else ''
    self._own = _Owner(
      key=uuid.uuid4().hex,
      host=socket.gethostname(),
      pid=os.getpid(),
      boot=boot,
      count=0,
    )
    self._file: int | None = None
    self._ended = threading.Event()
    self._counting: threading.Thread | None = None
    self._since = 0.0

  def __enter__(self) -> 'Lock':
    """Takes the lock.

    Raises:
      ValueError: another training holds it.
    """
    trouble = ''
    if processes.leads():
      try:
        self._take()
      except (ValueError, OSError) as error:
        self._close()
        trouble = command.line(error)
    trouble = processes.trouble(trouble)
    if trouble:
      raise ValueError(trouble)
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: types.TracebackType | None,
  ) -> None:
    if self._counting is None:
      return
    self._ended.set()
    self._counting.join()
    if self._taken_by() is None:
      self._note.unlink(missing_ok=True)
    self._close()

  def check(self) -> None:
    """Checks that this run still holds the lock, before it writes anything.

    Raises:
      command.Exit: another run took it at the same time, or while this process was
        suspended.
    """
    if self._counting is None:
      return
    time.sleep(max(0.0, self._since + SETTLED * BEAT - time.monotonic()))
    if (other := self._taken_by()) is not None:
      raise command.Exit(2, f'error: {self._refusal(other)}')

  def _take(self) -> None:
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
    until, told = time.monotonic() + LONGEST * BEAT, False
    while (owner := self._rival()) is not None:
      if owner.beside(self._own) and self._kernels() is False:
        raise ValueError(self._refusal(owner))
      if not told:
        log.info(
          f'{self._path.parent} is of a run on {owner.host} (process {owner.pid}); '
          'waiting to see whether it lives'
        )
        told = True
      if self._dead(owner):
        break
      if time.monotonic() > until:
        raise ValueError(self._refusal(owner))
    self._write()
    self._since = time.monotonic()
    self._counting = threading.Thread(target=self._count, daemon=True)
    self._counting.start()

  def _rival(self) -> _Owner | None:
    """Another process that may hold the lock; None if there is none.

    Raises:
      ValueError: the lock is held and the owner unknown.
    """
    owner, free = self._read(), self._kernels()
    if owner is None and free is False:
      time.sleep(BEAT / 10)  # it may be about to write its name
      owner = self._read()
      if owner is None:
        raise ValueError(self._refusal(None))
    if owner is not None and free and owner.beside(self._own):
      return None  # it died: the kernel has freed its lock
    return owner

  def _kernels(self) -> bool | None:
    """True if the kernel grants the lock, None if the file system has no such locks."""
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      return False
    except OSError:
      return None
    return True

  def _dead(self, owner: _Owner) -> bool:
    """True if an owner has stopped counting; waits until that is known."""
    until = time.monotonic() + PATIENCE * BEAT
    while time.monotonic() < until:
      time.sleep(BEAT / 5)
      if self._read() != owner:
        return False
    return True

  def _count(self) -> None:
    while not self._ended.wait(BEAT):
      with contextlib.suppress(OSError):
        if self._taken_by() is None and self._path.parent.exists():
          self._write()

  def _taken_by(self) -> _Owner | None:
    """Owner in the file `lock.owner`, if it is another process."""
    found = self._read()
    return None if found is None or found.key == self._own.key else found

  def _write(self) -> None:
    self._own = dataclasses.replace(self._own, count=self._own.count + 1)
    fresh = self._note.with_name(f'{self._note.name}.{self._own.key[:8]}')
    fresh.write_text(json.dumps(dataclasses.asdict(self._own)) + '\n')
    fresh.replace(self._note)

  def _read(self) -> _Owner | None:
    """Owner in the file `lock.owner`; None if it is absent or invalid."""
    try:
      if not self._note.is_file():
        return None
      return _Owner(**_typed(json_text.parse_object(self._note.read_bytes())))
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
      return None

  def _refusal(self, owner: _Owner | None) -> str:
    who = f'process {owner.pid} on {owner.host}' if owner else 'another process'
    return (
      f'expected no other training in {self._path.parent}, found {who} at work; wait '
      'for it, stop it, or name another --workdir'
    )

  def _close(self) -> None:
    if self._file is not None:
      os.close(self._file)
      self._file = None


def _typed(found: dict[str, Any]) -> dict[str, Any]:
  return {
    field.name: field.type(found[field.name]) for field in dataclasses.fields(_Owner)
  }
