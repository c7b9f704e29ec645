"""Standard output and error that no terminal, pipe or encoding can fail.

A run of days must not end because the terminal that it was started in was closed, nor a
caption be lost because the terminal cannot show a letter of it.
"""

import contextlib
import errno
import os
from collections.abc import Iterable
from typing import Any, BinaryIO, TextIO

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)
"""A pipe without a reader, a terminal that was closed."""


class Lasting:
  """A stream that goes on when nobody reads it; all else is the stream's own.

  Characters that its encoding lacks are written as escapes. None, which stands for a
  stream that was closed before the start, is one that nobody reads.
  """

  def __init__(self, stream: TextIO | BinaryIO | None, *, lossy: bool):
    """Args: stream; lossy: whether what fails otherwise, as on a full disk, is lost."""
    self._stream = stream = stream or open(os.devnull, 'w')  # noqa: SIM115 - it lasts
    self._lossy = lossy
    if hasattr(stream, 'reconfigure'):
      stream.reconfigure(errors='backslashreplace')

  def write(self, text: str | bytes) -> int:
    """Writes; does nothing where nobody reads."""
    try:
      return self._stream.write(text)
    except (OSError, ValueError) as error:  # ValueError: the stream was closed
      self._failed(error)
      return len(text)

  def flush(self) -> None:
    """Flushes; does nothing where nobody reads."""
    try:
      self._stream.flush()
    except (OSError, ValueError) as error:
      self._failed(error)

  def writelines(self, lines: Iterable[str]) -> None:
    """Writes one after the other."""
    for line in lines:
      self.write(line)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def _failed(self, error: Exception) -> None:
    """Sends what follows nowhere, if there is nobody left to read it."""
    if isinstance(error, OSError) and error.errno not in GONE:
      if not self._lossy:
        raise error
      return
    with contextlib.suppress(OSError, ValueError, AttributeError):
      nowhere = os.open(os.devnull, os.O_WRONLY)
      os.dup2(nowhere, self._stream.fileno())
      os.close(nowhere)
