"""Strict by default: eight CPU devices, checked shapes, no silent promotion.

Nothing here reaches a subprocess by accident: the eight devices are a setting of this
process's JAX and not an environment variable. A test that starts a program takes the
fixture `environment` and says how many devices the program shall see.
"""

import os
import re
import signal
from collections.abc import Callable, Iterator

os.environ['JAX_PLATFORMS'] = 'cpu'  # before jax is imported; a TPU stays untouched

import jax
import jaxtyping
import pytest

# A shell's background job ignores Ctrl-C, and so would every program that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

DEVICES = 8
_DEVICE_FLAG = '--xla_force_host_platform_device_count'

jax.config.update('jax_num_cpu_devices', DEVICES)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_numpy_dtype_promotion', 'strict')

# Shapes and types of every annotated function are checked at each call; this must come
# before the package's first import, whose modules are rewritten as they are loaded.
jaxtyping.install_import_hook('transfusion_jax', 'beartype.beartype')


@pytest.fixture
def environment() -> Callable[..., dict[str, str]]:
  """Environment variables for a program that a test starts: `environment(devices=8)`.

  The program runs on the CPU, on one device unless asked otherwise, without this
  process's strictness, as it does for a user.
  """

  def make(*, devices: int = 1, **variables: str) -> dict[str, str]:
    inherited = os.environ.get('XLA_FLAGS', '')
    flags = re.sub(rf'{_DEVICE_FLAG}=\d+', '', inherited).split()
    flags = ' '.join([*flags, f'{_DEVICE_FLAG}={devices}'])
    return {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags, **variables}

  return make


@pytest.fixture
def terminal() -> Iterator[None]:
  """What the test starts heeds SIGHUP, even where pytest was begun with nohup."""
  before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
  yield
  signal.signal(signal.SIGHUP, before)
