"""Span attention on a GPU: tokamax's kernel against XLA and PyTorch's FlexAttention.

  pip install -e '.[gpu]'
  python -m benchmarks.gpu_attention --peer=PYTHON --json=gpu_attention.json

PYTHON is the interpreter of an environment with PyTorch for the same GPU. All get the
same bfloat16 queries, keys and values and the same mask: packed documents of 512
positions, half of each an image. Forward and backward passes take turns; a ratio is the
median over the rounds. The error is the largest relative root mean square error of the
output and the gradients, against dense attention in float32.

Not yet run on a GPU. On a CPU, where FlexAttention has no backward pass,
`--forward --rows=1 --documents=2` shows that the sides agree, and no speed.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import on_cpu

BACKENDS = {'kernel': 'gpu', 'xla': 'xla', 'dense': 'xla_dense'}
FLEX, TEXT, OUTPUTS = 'flex', 128, ('o', 'dq', 'dk', 'dv')


def main() -> None:
  """Measures all in turns, prints and writes the result."""
  arguments = _arguments()
  # Both sides hold memory of the same GPU.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / 'arrays.npz'
    arrays = _arrays(arguments)
    np.savez(file, **arrays)
    expected = _values(
      _ours('xla_dense', arrays, dtype='float32', forward=arguments.forward)
    )
    runs = {
      name: _ours(backend, arrays, dtype='bfloat16', forward=arguments.forward)
      for name, backend in BACKENDS.items()
    }
    errors = {name: _error(_values(run), expected) for name, run in runs.items()}
    with Flex(arguments.peer, file, arguments.forward) as flex:
      errors[FLEX] = _error(flex.values(), expected)
      measures: dict[str, Callable[[], float]] = {
        **{name: _seconds(run) for name, run in runs.items()},
        FLEX: flex.seconds,
      }
      for measure in measures.values():
        measure()
      rounds = [
        {name: measure() for name, measure in measures.items()}
        for _ in range(arguments.rounds)
      ]
      facts = flex.facts
  on_cpu.tell({**_summary(rounds), 'errors': errors, **facts}, arguments.json)


class Flex:
  """FlexAttention in its own process, a context manager.

  Attributes:
    facts: versions and devices of PyTorch and JAX.
  """

  def __init__(self, program: str, file: pathlib.Path, forward: bool):
    """Starts the process.

    Args:
      program: Python interpreter with PyTorch.
      file: file of the arrays; results are written beside it.
      forward: if True, without gradients.
    """
    command = [program, '-m', 'benchmarks.gpu_attention_flex', str(file)]
    self._side = subprocess.Popen(
      command + ['--forward'] * forward,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self._file = file
    self.facts: dict[str, str] = {}

  def __enter__(self):
    import jax

    device = jax.devices()[0].device_kind
    self.facts = {'jax': jax.__version__, 'device': device, **self._read()}
    return self

  def __exit__(self, *_):
    self._side.stdin.close()
    self._side.wait()

  def seconds(self) -> float:
    """Seconds of one pass."""
    return self._ask('seconds')

  def values(self) -> list[np.ndarray]:
    """Output and gradients."""
    with np.load(self._ask('values')) as found:
      return [found[name] for name in OUTPUTS if name in found]

  def _ask(self, what: str) -> Any:
    self._side.stdin.write(what + '\n')
    self._side.stdin.flush()
    return self._read()

  def _read(self) -> Any:
    line = self._side.stdout.readline()
    if not line:
      raise RuntimeError('FlexAttention has ended; see what it says above')
    return json.loads(line)


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--peer', required=True, help='Python that has PyTorch')
  parser.add_argument('--json', help='file for the result')
  parser.add_argument('--forward', action='store_true', help='without gradients')
  sizes = {'rows': 4, 'documents': 8, 'heads': 16, 'head_dim': 128, 'rounds': 9}
  for name, value in sizes.items():
    parser.add_argument(f'--{name}', type=int, default=value)
  return parser.parse_args()


def _arrays(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
  """Queries, keys, values, gradients [b, h, n, d], rounded to bfloat16, and spans."""
  import jax.numpy as jnp

  rows, documents = arguments.rows, arguments.documents
  batch = on_cpu.make_batch(rows=rows, documents=documents, text=TEXT)
  shape = rows, arguments.heads, batch.tokens.shape[1], arguments.head_dim
  draw = np.random.default_rng(0)
  arrays = {}
  for name in ('q', 'k', 'v', 'do'):
    x = jnp.asarray(draw.standard_normal(shape), jnp.bfloat16)
    arrays[name] = np.asarray(x, np.float32)
  return {**arrays, 'start': np.asarray(batch.start), 'end': np.asarray(batch.end)}


def _ours(backend: str, arrays, *, dtype: str, forward: bool) -> Callable[[], Any]:
  """Builds a function that calls compiled attention and returns its results."""
  import jax
  import jax.numpy as jnp

  from transfusion_jax.ops import attention, span

  spans = span.Span(*(jnp.asarray(arrays[name]) for name in ('start', 'end')))
  q, k, v, do = (jnp.asarray(arrays[name], dtype) for name in ('q', 'k', 'v', 'do'))

  def attend(q, k, v):
    return attention.attend(q, k, v, span=spans, backend=backend)

  def both(q, k, v, do):
    if forward:
      return (attend(q, k, v),)
    o, pull = jax.vjp(attend, q, k, v)
    return o, *pull(do)

  with jax.default_matmul_precision('highest' if dtype == 'float32' else 'default'):
    compiled = jax.jit(both).lower(q, k, v, do).compile()
  return lambda: jax.block_until_ready(compiled(q, k, v, do))


def _values(run: Callable[[], Any]) -> list[np.ndarray]:
  return [np.asarray(x, np.float32) for x in run()]


def _error(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
  return max(_errors(found, expected))


def _errors(found, expected) -> Iterator[float]:
  for x, y in zip(found, expected, strict=True):
    yield float(np.linalg.norm(x - y) / np.linalg.norm(y))


def _seconds(run: Callable[[], Any]) -> Callable[[], float]:
  def measure():
    began = time.perf_counter()
    run()
    return time.perf_counter() - began

  return measure


def _summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
  """Milliseconds of each, and speed-ups of the kernel over the others."""
  names = list(rounds[0])
  speed = {
    name: statistics.median(turn[name] / turn['kernel'] for turn in rounds)
    for name in names
    if name != 'kernel'
  }
  times = {name: 1e3 * statistics.median(t[name] for t in rounds) for name in names}
  return {'ms': times, 'times_as_long_as_kernel': speed}


if __name__ == '__main__':
  main()
