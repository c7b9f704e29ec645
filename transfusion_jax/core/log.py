"""Messages to the user: one line per event on standard error."""

import functools
import logging
import sys

from absl import logging as absl_logging

from transfusion_jax.core import streams

logger = logging.getLogger('transfusion_jax')


def setup() -> None:
  """Sets up logging: plain lines on standard error, and streams that cannot fail."""
  if logger.handlers:
    return
  sys.stdout = streams.Lasting(sys.stdout, lossy=False)
  sys.stderr = streams.Lasting(sys.stderr, lossy=True)
  handler = logging.StreamHandler(sys.stderr)
  handler.setFormatter(logging.Formatter('%(message)s'))
  logger.addHandler(handler)
  logger.setLevel(logging.INFO)
  logger.propagate = False
  # Orbax logs every save, and prints a traceback of every error that it also raises.
  absl_logging.set_verbosity(absl_logging.FATAL)


def quiet() -> None:
  """Logs warnings only, for processes other than the first of a run."""
  logger.setLevel(logging.WARNING)


def info(message: str) -> None:
  """Logs a message for the user of the command."""
  logger.info(message)


def warning(message: str) -> None:
  """Logs a warning; every process logs its own."""
  logger.warning(message)


@functools.cache
def once(message: str) -> None:
  """Logs a message only once, for example that a fallback is in use."""
  logger.info(message)


@functools.cache
def once_warning(message: str) -> None:
  """Logs a warning only once, for example of a damaged file that is read often."""
  logger.warning(message)
