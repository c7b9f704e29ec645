"""Standard output and error that do not fail with the terminal, pipe or encoding.

A run of several days must not end because its terminal was closed, and a caption must
not be lost because the terminal cannot encode one of its characters.
"""

import contextlib
import errno
import os
from collections.abc import Iterable
from typing import Any, BinaryIO, TextIO

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)
"""Error numbers of a pipe without a reader or a closed terminal."""


class Lasting:
  """Text stream that ignores a missing reader; other attributes are the stream's own.

  Characters outside its encoding are written as escapes. None, which Python sets for a
  stream that was closed before the start, is treated as a stream without a reader.
  """

  def __init__(self, stream: TextIO | BinaryIO | None, *, lossy: bool):
    """Args: stream; lossy: if True, text is dropped on other errors, as a full disk."""
    self._stream = stream = stream or open(os.devnull, 'w')  # noqa: SIM115 - it lasts
    self._lossy = lossy
    if hasattr(stream, 'reconfigure'):
      stream.reconfigure(errors='backslashreplace')

  def write(self, text: str | bytes) -> int:
    """Writes text; does nothing without a reader."""
    try:
      return self._stream.write(text)
    except (OSError, ValueError) as error:  # ValueError: the stream was closed
      self._failed(error)
      return len(text)

  def flush(self) -> None:
    """Flushes the stream; does nothing without a reader."""
    try:
      self._stream.flush()
    except (OSError, ValueError) as error:
      self._failed(error)

  def writelines(self, lines: Iterable[str]) -> None:
    """Writes several texts in order."""
    for line in lines:
      self.write(line)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def _failed(self, error: Exception) -> None:
    """Redirects the stream to the null device if its reader is gone."""
    if isinstance(error, OSError) and error.errno not in GONE:
      if not self._lossy:
        raise error
      return
    with contextlib.suppress(OSError, ValueError, AttributeError):
      nowhere = os.open(os.devnull, os.O_WRONLY)
      os.dup2(nowhere, self._stream.fileno())
      os.close(nowhere)
