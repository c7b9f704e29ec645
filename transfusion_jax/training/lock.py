"""One training at a time in a work directory, on whatever file system it lies.

The file `lock` names its owner and counts while it lives. Where the kernel locks files
(`flock`), it frees the lock of a process that died, and on one machine nothing more is
needed. An owner on another machine, or where the kernel has no such locks, is alive if
its count goes on: that takes a few beats to see, and only where a run was killed.
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
"""Seconds between two counts."""

PATIENCE = 4
"""Beats in which a living owner has counted."""

_SIZE = 512  # bytes; all contents are as long, so that none is seen half
_BOOT = pathlib.Path('/proc/sys/kernel/random/boot_id')


@dataclasses.dataclass(frozen=True)
class _Owner:
  """Content of the file.

  Attributes:
    key: of the process that owns it.
    host: of that process.
    pid: of that process.
    boot: since when its machine runs; empty where the system does not say.
    count: of beats.
  """

  key: str
  host: str
  pid: int
  boot: str
  count: int

  def text(self) -> bytes:
    """The content, padded."""
    text = json.dumps(dataclasses.asdict(self))
    return text.encode().ljust(_SIZE - 1) + b'\n'


class Lock:
  """A context manager: the lock of a work directory, which its first process takes."""

  def __init__(self, path: pathlib.Path):
    """Args: path: of the file; its folder is made when the lock is taken."""
    self._path = path
    boot = _BOOT.read_text().strip() if _BOOT.exists() else ''
    host = socket.gethostname()[:64].replace('"', '')
    self._own = _Owner(uuid.uuid4().hex, host, os.getpid(), boot, 0)
    self._file: int | None = None
    self._ended = threading.Event()
    self._counting: threading.Thread | None = None
    self._taken_by: _Owner | None = None

  def __enter__(self) -> 'Lock':
    """Takes the lock.

    Raises:
      ValueError: another training has it.
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
    with contextlib.suppress(OSError):
      if self._read() and self._read().key == self._own.key:
        os.truncate(self._path, 0)
    self._close()

  def check(self) -> None:
    """Ends the run, if another one has taken the lock meanwhile.

    Raises:
      command.Exit: it has, perhaps after this process had been asleep.
    """
    if self._taken_by is not None:
      raise command.Exit(2, f'error: {self._refusal(self._taken_by)}')

  def _take(self) -> None:
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
    certain = self._of_kernel()
    before = self._read()
    foreign = before is not None and not (certain and before.boot == self._own.boot)
    if foreign and self._lives(before):
      raise ValueError(self._refusal(before))
    self._write()
    if foreign:  # another may have found it dead at the same time: the last one has it
      time.sleep(BEAT / 2)
      found = self._read()
      if found is None or found.key != self._own.key:
        raise ValueError(self._refusal(found or before))
    self._counting = threading.Thread(target=self._count, daemon=True)
    self._counting.start()

  def _of_kernel(self) -> bool:
    """Whether the kernel keeps the lock; ValueError if another process has it."""
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise ValueError(self._refusal(self._read())) from error
    except OSError:  # this file system has no locks
      return False
    return True

  def _lives(self, owner: _Owner) -> bool:
    """Whether an owner counts on."""
    log.info(
      f'{self._path} is of a run on {owner.host} (process {owner.pid}); waiting '
      f'{PATIENCE * BEAT:.0f} s to see whether it still lives'
    )
    until = time.monotonic() + PATIENCE * BEAT
    while time.monotonic() < until:
      time.sleep(BEAT / 5)
      if self._read() != owner:
        return True
    return False

  def _count(self) -> None:
    while not self._ended.wait(BEAT):
      with contextlib.suppress(OSError):
        found = self._read()
        if found is not None and found.key != self._own.key:
          self._taken_by = found
          return
        if self._path.exists():  # else the folder has gone, which is told elsewhere
          self._write()

  def _write(self) -> None:
    self._own = dataclasses.replace(self._own, count=self._own.count + 1)
    with self._path.open('r+b') as file:  # other machines see it when it is closed
      file.write(self._own.text())
      file.truncate(_SIZE)

  def _read(self) -> _Owner | None:
    """The owner that the file names; None if it names none."""
    try:
      return _Owner(**_typed(json_text.parse_object(self._path.read_bytes())))
    except (OSError, ValueError, TypeError, KeyError):
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
