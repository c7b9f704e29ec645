"""Training speed on a CPU by length of rows and width of the model.

  python -m benchmarks.lengths [--text=32] --json=lengths.json

Rows of 512 to 8,192 positions hold documents of 512 (128 text tokens, 256 image patches
of 16 channels, 128 text tokens). Queries of longer rows see no more keys: a step of
8,192 positions should take the same time for any length of rows. With another `--text`,
for example 32, documents do not end where blocks of attention do; rows have 1 to 16
documents. The model has 4 layers and heads of 64, float32, AdamW. All variants run in
one process in turns; a ratio is the median over the rounds, so that a drifting speed of
the machine favours none. XLA_FLAGS applies.

`peak_share` is the model's operations (formula (1) of `compiling/flops.py`, with
visible pairs only and without the adapter) over the rate of float32 matrix products
(2,048 x 2,048) in the same rounds.
"""

import statistics
import time
from collections.abc import Callable

from benchmarks import on_cpu

DEPTH, WIDTH = 4, 256
DOCUMENTS, MIDDLE, WIDTHS = (1, 2, 4, 8, 16), 4, (128, 256, 512)


def main() -> None:
  """Measures all variants in turns, prints and writes the result."""
  parser = on_cpu.parser(__doc__)
  parser.add_argument('--text', type=int, default=128, help='tokens beside an image')
  arguments = parser.parse_args()
  on_cpu.pin(arguments.threads)
  pairs = {(count, WIDTH) for count in DOCUMENTS} | {(MIDDLE, w) for w in WIDTHS}
  steps, work = {}, {}
  for count, width in sorted(pairs):
    steps[count, width], work[count, width] = variant(count, width, arguments.text)
  multiply = on_cpu.product()
  rounds, peaks = [], []
  for _ in range(arguments.rounds):
    peaks.append(on_cpu.peak_of(multiply))
    rounds.append({key: _seconds(step) for key, step in steps.items()})
  found = summary(rounds, peaks, work, document=on_cpu.PATCHES + 2 * arguments.text)
  on_cpu.tell({**found, 'threads': arguments.threads}, arguments.json)


def variant(count: int, width: int, text: int) -> tuple[Callable[[], None], float]:
  """Compiles a step and runs it once; also returns its model's operations.

  Args:
    count: number of documents in a row.
    width: width of the model.
    text: number of tokens before and after the image of a document.
  """
  from transfusion_jax.compiling import flops
  from transfusion_jax.runs import build

  heads = width // on_cpu.HEAD_DIM
  step, state, run = on_cpu.make_step(width=width, depth=DEPTH, heads=heads)
  batch = on_cpu.make_batch(rows=DOCUMENTS[-1] // count, documents=count, text=text)
  once = on_cpu.repeated(step, state, batch)
  once()
  operations = flops.model(
    build.parts(run).blueprint.shapes,
    run.model.transformer,
    tokens=batch.tokens.size,
    pairs=int((batch.end - batch.start).sum()),
    adapter=0.0,
  )
  return once, operations


def summary(rounds, peaks, work, *, document) -> dict[str, object]:
  """Tokens per second, ratios to the shortest rows, shares of the peak."""

  def median(value):
    return statistics.median(map(value, rounds, peaks))

  def told(key):
    tokens = DOCUMENTS[-1] * document
    return {
      'tokens_per_second': median(lambda turn, _: tokens / turn[key]),
      'peak_share': median(lambda turn, peak: work[key] / turn[key] / peak),
    }

  first = DOCUMENTS[0], WIDTH
  ratios = {
    count * document: median(
      lambda turn, _, key=(count, WIDTH): turn[first] / turn[key]
    )
    for count in DOCUMENTS
  }
  return {
    'speed_over_shortest': ratios,
    'by_length': {count * document: told((count, WIDTH)) for count in DOCUMENTS},
    'by_width': {width: told((MIDDLE, width)) for width in WIDTHS},
    'peak_flops': statistics.median(peaks),
  }


def _seconds(step: Callable[[], None]) -> float:
  began = time.perf_counter()
  step()
  return time.perf_counter() - began


if __name__ == '__main__':
  main()
