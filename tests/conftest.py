"""Strict by default: eight CPU devices, checked shapes, no silent promotion.

Without options `pytest` runs the tests that take seconds; `pytest --whole` runs all.
What a test costs is said by its marker, and no marker is written where this file sees
it: tests that start programs take the fixture `environment`.

Nothing here reaches a subprocess by accident: the eight devices are a setting of this
process's JAX and not an environment variable. A test that starts a program takes the
fixture `environment` and says how many devices the program shall see. What all of them
share is the folder where JAX keeps what it compiled.

Programs are compiled without optimizations, here and in subprocesses, since compiling
takes longer than running them. What is stated of optimized programs (golden numbers,
what compilers estimate, what a user's run survives) takes the fixture `optimized`, or
`environment(optimized=True)`.
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
QUICK = 'JAX_DISABLE_MOST_OPTIMIZATIONS'
CACHE = 'JAX_COMPILATION_CACHE_DIR'
_DEVICE_FLAG = '--xla_force_host_platform_device_count'

jax.config.update('jax_num_cpu_devices', DEVICES)
jax.config.update('jax_disable_most_optimizations', True)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_numpy_dtype_promotion', 'strict')

# Shapes and types of every annotated function are checked at each call; this must come
# before the package's first import, whose modules are rewritten as they are loaded.
jaxtyping.install_import_hook('transfusion_jax', 'beartype.beartype')


COSTLY = ('process', 'compiler', 'slow')
"""Markers of tests that only `--whole`, or another `-m`, runs."""


def pytest_addoption(parser: pytest.Parser) -> None:
  parser.addoption('--whole', action='store_true', help='also what takes minutes')


def pytest_configure(config: pytest.Config) -> None:
  """Lets this process, its workers and all programs keep what is compiled in one place.

  Workers inherit the variables, and find them when they import JAX.
  """
  cache = getattr(config, 'cache', None)
  if not hasattr(config, 'workerinput') and cache is not None:
    os.environ[CACHE] = str(cache.mkdir('compiled'))
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'
    jax.config.update('jax_compilation_cache_dir', os.environ[CACHE])
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def pytest_collection_modifyitems(
  config: pytest.Config, items: list[pytest.Item]
) -> None:
  """Marks tests that start programs, and leaves out what costs minutes."""
  for item in items:
    if 'environment' in getattr(item, 'fixturenames', ()):
      item.add_marker('process')
  if config.getoption('whole') or config.getoption('markexpr'):
    return
  left = [item for item in items if any(map(item.get_closest_marker, COSTLY))]
  config.hook.pytest_deselected(items=left)
  items[:] = [item for item in items if item not in set(left)]


@pytest.fixture(scope='session')
def environment() -> Callable[..., dict[str, str]]:
  """Environment variables for a program that a test starts: `environment(devices=8)`.

  The program runs on the CPU, on one device unless asked otherwise, without this
  process's strictness, as it does for a user; compiled as for a user if `optimized`.
  """

  def make(
    *, devices: int = 1, optimized: bool = False, **variables: str
  ) -> dict[str, str]:
    inherited = os.environ.get('XLA_FLAGS', '')
    flags = re.sub(rf'{_DEVICE_FLAG}=\d+', '', inherited).split()
    flags = ' '.join([*flags, f'{_DEVICE_FLAG}={devices}'])
    ours = {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags, QUICK: str(int(not optimized))}
    return {**os.environ, **ours, **variables}

  return make


@pytest.fixture
def optimized() -> Iterator[None]:
  """Compiles what the test runs as users have it compiled."""
  jax.clear_caches()  # of programs that were compiled without optimizations
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)


@pytest.fixture
def terminal() -> Iterator[None]:
  """What the test starts heeds SIGHUP, even where pytest was begun with nohup."""
  before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
  yield
  signal.signal(signal.SIGHUP, before)
