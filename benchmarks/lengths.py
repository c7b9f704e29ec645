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

import statistics
import time
from collections.abc import Callable

from benchmarks import on_cpu

TEXT, DOCUMENT, TOKENS = 128, 512, 8192
LENGTHS, WIDTHS = (512, 1024, 2048, 4096, 8192), (128, 256, 512)
DEPTH, WIDTH, LENGTH = 4, 256, 2048


def main() -> None:
  """Lets all variants take turns, prints and writes the result."""
  arguments = on_cpu.parser(__doc__).parse_args()
  on_cpu.pin(arguments.threads)
  pairs = {(length, WIDTH) for length in LENGTHS} | {(LENGTH, w) for w in WIDTHS}
  steps, work = {}, {}
  for length, width in sorted(pairs):
    steps[length, width], work[length, width] = variant(length, width)
  multiply = on_cpu.product()
  rounds, peaks = [], []
  for _ in range(arguments.rounds):
    peaks.append(on_cpu.peak_of(multiply))
    rounds.append({key: _seconds(step) for key, step in steps.items()})
  on_cpu.tell(summary(rounds, peaks, work, arguments.threads), arguments.json)


def variant(length: int, width: int) -> tuple[Callable[[], None], float]:
  """A compiled step, run once, and its model's operations."""
  from transfusion_jax import build
  from transfusion_jax.compiling import flops

  heads = width // on_cpu.HEAD_DIM
  step, state, run = on_cpu.make_step(width=width, depth=DEPTH, heads=heads)
  rows, documents = TOKENS // length, length // DOCUMENT
  batch = on_cpu.make_batch(rows=rows, documents=documents, text=TEXT)
  once = on_cpu.repeated(step, state, batch)
  once()
  operations = flops.model(
    build.parts(run).blueprint.shapes,
    run.model.transformer,
    tokens=TOKENS,
    pairs=int((batch.end - batch.start).sum()),
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


if __name__ == '__main__':
  main()
