"""Speed of training and sampling against transfusion-pytorch, both in one run.

  pip install -e .
  python -m venv peer
  peer/bin/pip install transfusion-pytorch==0.20.0 torch==2.13.0
  python -m benchmarks.versus_peer --peer=peer/bin/python --json=versus_peer.json

Both models have 6 layers of width 384 with 6 heads of 64 in float32, images of 256
patches of 16 channels, and the same number of threads. Measures:

  train     steps on 8 rows of 64 text tokens, an image and 64 text tokens, AdamW
  image     one image after 32 tokens, guidance 3, 60 evaluations of the network
  text      256 tokens after 32, greedy, with a cache
  text_8    the same, eight rows at a time
  caption   64 tokens after an image
  mixed_8   eight requests at once: four images as above, two captions, two texts of
            64 tokens

Each side runs in its own process for the whole run, and they take turns, so that a
drifting speed of the machine favours neither; the result is the median of the rounds'
ratios. XLA_FLAGS and GLIBC_TUNABLES apply to both sides. Weights and prompts are
random.

Operations are those of matrix products, per token, image or request: as traced for
ours, by PyTorch's counter for the peer. In training, `peak_share` is the share of the
machine's rate of float32 matrix products (2,048 x 2,048, for some seconds, in the same
process after every round), as a median over the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks import on_cpu

ROWS, TEXT, DEPTH, WIDTH, HEADS, PROMPT = 8, 64, 6, 384, 6, 32
TOKENS = ROWS * (2 * TEXT + on_cpu.PATCHES)
"""Tokens of a batch; with the sizes above, shared by both sides."""

MEASURES = ('train', 'image', 'text', 'text_8', 'caption', 'mixed_8')
OPERATIONS = 'operations of '
PEAK = 'peak'
SIDES = {'ours': 'benchmarks.versus_peer_ours', 'peer': 'benchmarks.versus_peer_theirs'}


class Measure(NamedTuple):
  """Measure of a side.

  Attributes:
    rate: function that measures tokens, images or requests per second.
    operations: operations of each of them.
  """

  rate: Callable[[], float]
  operations: Callable[[], float]


def main() -> None:
  """Starts both sides, measures in turns, prints and writes the result."""
  parser = on_cpu.parser(__doc__)
  parser.add_argument('--peer', help='Python that has transfusion-pytorch')
  parser.add_argument('--measures', nargs='+', default=MEASURES, choices=MEASURES)
  arguments = parser.parse_args()
  if not arguments.peer:
    parser.error('expected --peer=PYTHON with transfusion-pytorch, found none')
  programs = {'ours': sys.executable, 'peer': arguments.peer}
  sides, facts = {}, {}
  for name, program in programs.items():
    sides[name] = _start(name, program, arguments.threads)
    facts[name] = json.loads(sides[name].stdout.readline())
  result: dict[str, object] = {'threads': arguments.threads}
  for measure in arguments.measures:
    for name, side in sides.items():
      _turn(side, measure)  # compiles, and warms up
      result[f'{measure}_{name}_operations'] = _turn(side, OPERATIONS + measure)
    rounds, peaks = [], []
    for _ in range(arguments.rounds):
      rounds.append({name: _turn(side, measure) for name, side in sides.items()})
      if measure == 'train':
        peaks.append({name: _turn(side, PEAK) for name, side in sides.items()})
    found = _summary(measure, rounds)
    result |= found | _shares(rounds, peaks, result)
    print(json.dumps(found), flush=True)
  for side in sides.values():
    side.stdin.close()
    side.wait()
  result |= {f'{name}_versions': fact for name, fact in facts.items()}
  on_cpu.tell(result, arguments.json)


def _start(name: str, program: str, threads: int) -> subprocess.Popen:
  return subprocess.Popen(
    [program, '-m', SIDES[name], f'--threads={threads}'],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  )


def _turn(side: subprocess.Popen, measure: str) -> float:
  """Result of one turn of a measure."""
  side.stdin.write(measure + '\n')
  side.stdin.flush()
  return json.loads(side.stdout.readline())


def _summary(measure: str, rounds: list[dict[str, float]]) -> dict[str, object]:
  ratios = [turn['ours'] / turn['peer'] for turn in rounds]
  return {
    f'{measure}_ratio': statistics.median(ratios),
    f'{measure}_ratio_range': [min(ratios), max(ratios)],
    **{
      f'{measure}_{name}_per_second': statistics.median(turn[name] for turn in rounds)
      for name in SIDES
    },
  }


def _shares(rounds, peaks, result: dict[str, object]) -> dict[str, object]:
  """Shares of the machine's peak in training."""
  found: dict[str, object] = {}
  for name in SIDES if peaks else ():
    work = result[f'train_{name}_operations']
    whose = '' if name == 'ours' else f'{name}_'
    shares = [
      turn[name] * work / peak[name] for turn, peak in zip(rounds, peaks, strict=True)
    ]
    found |= {
      f'{whose}peak_share': statistics.median(shares),
      f'{whose}peak_share_range': [min(shares), max(shares)],
      f'{whose}peak_flops': statistics.median(peak[name] for peak in peaks),
    }
  return found


def serve(
  measures: Mapping[str, Measure], multiply: Callable[[], object], versions: object
) -> None:
  """Serves one side: reports its versions, then measures on request.

  Args:
    measures: measures by name.
    multiply: function that multiplies two matrices, for the machine's peak.
    versions: versions of its libraries.
  """
  print(json.dumps(versions), flush=True)
  for line in sys.stdin:
    asked = line.strip()
    print(json.dumps(_answer(asked, measures, multiply)), flush=True)


def _answer(asked: str, measures: Mapping[str, Measure], multiply) -> float:
  if asked == PEAK:
    return on_cpu.peak_of(multiply)
  measure = measures[asked.removeprefix(OPERATIONS)]
  return measure.operations() if asked.startswith(OPERATIONS) else measure.rate()


def threads() -> int:
  """Number of threads in the command line of a side."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--threads', type=int, required=True)
  return parser.parse_args().threads


if __name__ == '__main__':
  main()
