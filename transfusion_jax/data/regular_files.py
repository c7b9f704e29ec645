"""Bytes of files whose names come from elsewhere: a config, a record, a request.

A name may stand for a pipe that nobody writes to, or for a device without an end.
"""

import errno
import os
import stat

BLOCK = 1 << 24


def read(path: str, most: int, start: int = 0, end: int | None = None) -> bytes:
  """The content of a regular file on this machine, or a part of it.

  Args:
    path: exactly this; nothing in it is expanded.
    most: bytes that are read at the most.
    start: first byte.
    end: the byte after the last one; None: all.

  Raises:
    ValueError: it is a pipe, a device or a socket, too large, or no file's name.
    OSError: it is missing, or cannot be read; `IsADirectoryError` for a folder.
  """
  # Opening a pipe without O_NONBLOCK would wait for somebody to write to it.
  try:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
  except ValueError as error:  # UnicodeEncodeError is one
    raise ValueError(
      f'expected the path of a file, found {path!r}, which no file can have; check it'
    ) from error
  wanted = most + 1 if end is None else min(end - start, most + 1)
  blocks: list[bytes] = []
  try:
    check(path, os.fstat(descriptor))
    while wanted > 0 and (block := os.pread(descriptor, min(wanted, BLOCK), start)):
      blocks.append(block)
      start, wanted = start + len(block), wanted - len(block)
  finally:
    os.close(descriptor)
  data = b''.join(blocks)
  if len(data) > most:
    raise ValueError(
      f'expected a file of at most {most:,} bytes, found {path} with more; divide it, '
      'or name another'
    )
  return data


def check(path: str, found: os.stat_result) -> None:
  """Raises an error for all that is no regular file."""
  if stat.S_ISDIR(found.st_mode):
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
  if not stat.S_ISREG(found.st_mode):
    raise ValueError(
      f'expected a regular file, found {path}, a pipe, device or socket; name a file'
    )
