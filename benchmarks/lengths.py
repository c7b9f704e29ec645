"""Training speed on a CPU against the length of rows and the width of the model.

  python -m benchmarks.lengths --json=lengths.json

Rows of 512 to 8,192 positions hold documents of 512 (128 text tokens, 256 image
patches of 16 channels, 128 text tokens). A query of a longer row sees no more keys: a
step of 8,192 positions should take as long however they are cut into rows. The model
has 4 layers and heads of 64, float32, AdamW. All variants live in one process and take
turns; a ratio is the median over the rounds, so that a machine whose speed drifts does
not favour a variant. What stands in XLA_FLAGS counts.

`peak_share` is the model's operations (formula (1) of `compiling/flops.py`, of visible
pairs alone, the adapter's few left out) over the rate of multiplying float32 matrices
(2,048 x 2,048) of the same rounds.
"""

import argparse
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable

from benchmarks import versus_peer

TEXT, DOCUMENT, TOKENS = 128, 512, 8192
LENGTHS, WIDTHS = (512, 1024, 2048, 4096, 8192), (128, 256, 512)
DEPTH, WIDTH, LENGTH = 4, 256, 2048


def main() -> None:
  """Lets all variants take turns, prints and writes the result."""
  arguments = _arguments()
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
  pairs = {(length, WIDTH) for length in LENGTHS} | {(LENGTH, w) for w in WIDTHS}
  steps, work = {}, {}
  for length, width in sorted(pairs):
    steps[length, width], work[length, width] = variant(length, width)
  multiply = _product()
  rounds, peaks = [], []
  for _ in range(arguments.rounds):
    peaks.append(versus_peer.peak_of(multiply))
    rounds.append({key: _seconds(step) for key, step in steps.items()})
  result = summary(rounds, peaks, work, arguments.threads)
  print(json.dumps(result, indent=2))
  if arguments.json:
    pathlib.Path(arguments.json).write_text(json.dumps(result, indent=2) + '\n')


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--json', help='file for the result')
  parser.add_argument('--threads', type=int, default=os.cpu_count())
  parser.add_argument('--rounds', type=int, default=7)
  return parser.parse_args()


def variant(length: int, width: int) -> tuple[Callable[[], None], float]:
  """A compiled step, run once, and its model's operations."""
  import jax

  from transfusion_jax.compiling import flops
  from transfusion_jax.core import tree

  heads = width // versus_peer.HEAD_DIM
  step, state, parts = versus_peer.make_step(width=width, depth=DEPTH, heads=heads)
  rows, documents = TOKENS // length, length // DOCUMENT
  batch = versus_peer.make_batch(rows=rows, documents=documents, text=TEXT)
  compiled = jax.jit(step, donate_argnums=(0,)).lower(state, batch).compile()
  held = [state]

  def once():
    held[0], metrics = compiled(held[0], batch)
    jax.block_until_ready((held[0], metrics))

  once()
  shapes = parts.blueprint.shapes
  operations = flops.model(
    weights=tree.size(shapes['transformer']) + tree.size(shapes['head']),
    tokens=TOKENS,
    pairs=int((batch.end - batch.start).sum()),
    width=width,
    depth=DEPTH,
    adapter=0.0,
  )
  return once, operations


def summary(rounds, peaks, work, threads) -> dict[str, object]:
  """Tokens per second, ratios to the shortest rows, shares of the peak."""

  def median(value):
    return statistics.median(map(value, rounds, peaks))

  def told(key):
    return {
      'tokens_per_second': median(lambda turn, _: TOKENS / turn[key]),
      'peak_share': median(lambda turn, peak: work[key] / turn[key] / peak),
    }

  first = LENGTHS[0], WIDTH
  ratios = {
    length: median(lambda turn, _, key=(length, WIDTH): turn[first] / turn[key])
    for length in LENGTHS
  }
  return {
    f'speed_over_length_{LENGTHS[0]}': ratios,
    'by_length': {length: told((length, WIDTH)) for length in LENGTHS},
    'by_width': {width: told((LENGTH, width)) for width in WIDTHS},
    'peak_flops': statistics.median(peaks),
    'threads': threads,
  }


def _seconds(step: Callable[[], None]) -> float:
  began = time.perf_counter()
  step()
  return time.perf_counter() - began


def _product() -> Callable[[], None]:
  import jax
  import jax.numpy as jnp

  a = jnp.ones((2048, 2048))
  product = jax.jit(jnp.dot)
  return lambda: product(a, a).block_until_ready()


if __name__ == '__main__':
  main()
