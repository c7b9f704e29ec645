"""Training speed against transfusion-pytorch, both sides in one run.

  pip install -e .
  python -m venv peer
  peer/bin/pip install transfusion-pytorch==0.20.0 torch==2.13.0
  python -m benchmarks.versus_peer --peer=peer/bin/python --json=versus_peer.json

Both train 6 layers of width 384 with 6 heads of 64 in float32 on rows of 64 text
tokens, 256 image patches of 16 channels and 64 text tokens, 8 rows a step, AdamW, on
the same number of threads. The sides run in processes of their own that live through
the whole run and take turns: `rounds` times some steps of ours, then some of the
peer's. The median of the rounds' ratios is the result, so that a machine whose speed
drifts does not favour a side. What stands in XLA_FLAGS counts.

Operations are those of matrix products, counted in our step as traced and by PyTorch's
counter in the peer's. `peak_share` is the share of the machine's rate of
multiplying float32 matrices (2,048 x 2,048, measured in the same process).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from benchmarks import on_cpu

ROWS, TEXT, DEPTH, WIDTH, HEADS = 8, 64, 6, 384, 6
TOKENS = ROWS * (2 * TEXT + on_cpu.PATCHES)


def main() -> None:
  """Starts both sides, lets them take turns, prints and writes the result."""
  arguments = _arguments()
  if arguments.side:
    {'ours': ours, 'peer': peer}[arguments.side](arguments)
    return
  programs = {'ours': sys.executable, 'peer': arguments.peer}
  sides, facts = {}, {}
  for name, program in programs.items():  # one by one: each measures its peak alone
    sides[name] = _start(name, program, arguments)
    facts[name] = json.loads(sides[name].stdout.readline())
  rounds = [
    {name: _turn(side) for name, side in sides.items()} for _ in range(arguments.rounds)
  ]
  for side in sides.values():
    side.stdin.close()
    side.wait()
  on_cpu.tell(_summary(facts, rounds, arguments.threads), arguments.json)


def _arguments() -> argparse.Namespace:
  parser = on_cpu.parser(__doc__)
  parser.add_argument('--peer', help='Python that has transfusion-pytorch')
  parser.add_argument('--steps', type=int, default=2, help='of a turn')
  parser.add_argument('--side', choices=['ours', 'peer'], help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if not arguments.side and not arguments.peer:
    parser.error('expected --peer=PYTHON with transfusion-pytorch, found none')
  return arguments


def _start(name: str, program: str, arguments: argparse.Namespace) -> subprocess.Popen:
  more = [f'--side={name}', f'--threads={arguments.threads}']
  return subprocess.Popen(
    [program, '-m', 'benchmarks.versus_peer', *more, f'--steps={arguments.steps}'],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, 'OMP_WAIT_POLICY': 'PASSIVE', 'JAX_PLATFORMS': 'cpu'},
  )


def _turn(side: subprocess.Popen) -> float:
  """Tokens per second of one turn."""
  side.stdin.write('go\n')
  side.stdin.flush()
  return json.loads(side.stdout.readline())


def _summary(facts, rounds, threads) -> dict[str, object]:
  ratios = [turn['ours'] / turn['peer'] for turn in rounds]
  result: dict[str, object] = {
    'train_ratio': statistics.median(ratios),
    'train_ratio_range': [min(ratios), max(ratios)],
    'threads': threads,
  }
  for name, fact in facts.items():
    speed = statistics.median(turn[name] for turn in rounds)
    result[f'{name}_tokens_per_second'] = speed
    result[f'{name}_flops_per_token'] = fact['flops'] / TOKENS
    result[f'{name}_peak_flops'] = fact['peak']
    share = speed * fact['flops'] / TOKENS / fact['peak']
    result['peak_share' if name == 'ours' else 'peer_peak_share'] = share
    result[f'{name}_versions'] = fact['versions']
  return result


def _serve(step, arguments: argparse.Namespace, **facts: object) -> None:
  """Says what is known of this side, then times `steps` steps whenever asked."""
  step()
  print(json.dumps(facts), flush=True)
  for _ in sys.stdin:
    began = time.perf_counter()
    for _ in range(arguments.steps):
      step()
    seconds = time.perf_counter() - began
    print(json.dumps(TOKENS * arguments.steps / seconds), flush=True)


def ours(arguments: argparse.Namespace) -> None:
  """This package: the step that `train` runs, on one device."""
  on_cpu.pin(arguments.threads)
  import jax

  from transfusion_jax.compiling import flops

  step, state, _ = on_cpu.make_step(width=WIDTH, depth=DEPTH, heads=HEADS)
  batch = on_cpu.make_batch(rows=ROWS, documents=1, text=TEXT)
  traced = jax.eval_shape(lambda: (state, batch))
  once = on_cpu.repeated(step, state, batch)
  counted = flops.count(step, *traced)
  peak = on_cpu.peak_of(on_cpu.product())
  _serve(once, arguments, flops=counted, peak=peak, versions={'jax': jax.__version__})


def peer(arguments: argparse.Namespace) -> None:
  """transfusion-pytorch with its defaults, at the same depth and width."""
  import torch
  from torch.utils import flop_counter
  from transfusion_pytorch import Transfusion

  torch.set_num_threads(arguments.threads)
  torch.manual_seed(0)
  model = Transfusion(
    num_text_tokens=on_cpu.VOCABULARY,
    dim_latent=on_cpu.CHANNELS,
    modality_num_dim=1,
    transformer={
      'dim': WIDTH,
      'depth': DEPTH,
      'dim_head': on_cpu.HEAD_DIM,
      'heads': HEADS,
    },
  )
  optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
  rows = [
    [
      torch.randint(0, on_cpu.VOCABULARY, (TEXT,)),
      (0, torch.randn(on_cpu.PATCHES, on_cpu.CHANNELS)),
      torch.randint(0, on_cpu.VOCABULARY, (TEXT,)),
    ]
    for _ in range(ROWS)
  ]

  def once():
    optimizer.zero_grad()
    loss = model(rows)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

  with flop_counter.FlopCounterMode(display=False) as counter:
    once()
  a = torch.ones(2048, 2048)
  versions = {'torch': torch.__version__, 'transfusion-pytorch': '0.20.0'}
  counted = counter.get_total_flops()
  _serve(
    once,
    arguments,
    flops=counted,
    peak=on_cpu.peak_of(lambda: a @ a),
    versions=versions,
  )


if __name__ == '__main__':
  main()
