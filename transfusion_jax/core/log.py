"""What a run tells a person: one line per event on standard error, and user errors."""

import functools
import logging
import sys

from absl import logging as absl_logging

from transfusion_jax.core import streams

logger = logging.getLogger('transfusion_jax')


def setup() -> None:
  """Sends the project's messages to standard error, one plain line each."""
  if logger.handlers:
    return
  sys.stdout = streams.Lasting(sys.stdout, lossy=False)
  sys.stderr = streams.Lasting(sys.stderr, lossy=True)
  handler = logging.StreamHandler(sys.stderr)
  handler.setFormatter(logging.Formatter('%(message)s'))
  logger.addHandler(handler)
  logger.setLevel(logging.INFO)
  logger.propagate = False
  # Orbax chats at every save, and prints a trace of what it raises as well.
  absl_logging.set_verbosity(absl_logging.FATAL)


def quiet() -> None:
  """Says no more than warnings, where another process speaks for all."""
  logger.setLevel(logging.WARNING)


def info(message: str) -> None:
  """Says something to the person who runs the command."""
  logger.info(message)


def warning(message: str) -> None:
  """Says something that every process has to say for itself."""
  logger.warning(message)


@functools.cache
def once(message: str) -> None:
  """Says something only the first time, for example that a fallback is in use."""
  logger.info(message)


@functools.cache
def once_warning(message: str) -> None:
  """Warns only the first time, for example of a damaged file that is read again."""
  logger.warning(message)
