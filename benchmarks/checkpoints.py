"""Cost of checkpoints: time for which they block training, and memory.

  python -m benchmarks.checkpoints --mebibytes=1024

Saves and restores a state of that size (parameters, average, two moments) on one CPU
device, with the digests of all arrays. Blocked is the time until `save` returns; the
rest is written in parallel with steps. Memory is the peak above the process's memory
before, relative to the size of the state; every part runs in its own process.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

MIB = 2**20


def memory(field: str) -> float:
  """Memory of the process in bytes: current (VmRSS) or peak (VmHWM)."""
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  found = next(line for line in lines if line.startswith(f'{field}:'))
  return 1024 * int(found.split()[1])


def shapes(mebibytes: int) -> dict[str, tuple[int, int]]:
  """Shapes of parameters: a quarter of the state's size, in sixteen matrices."""
  rows = mebibytes * MIB // 4 // 16 // 4 // 1024
  return {f'matrix_{index}': (rows, 1024) for index in range(16)}


def initial(mebibytes: int):
  """Creates a state of the given size on the device."""
  import jax
  import jax.numpy as jnp
  import optax

  from transfusion_jax.training import state

  tx = optax.adam(1e-3)
  sizes = shapes(mebibytes)

  def init(key):
    keys = jax.random.split(key, len(sizes))
    return {
      name: jax.random.normal(each, shape, jnp.float32)
      for each, (name, shape) in zip(keys, sizes.items(), strict=True)
    }

  return jax.jit(lambda key: state.initial(init, tx, key, average=True))


def save(folder: pathlib.Path, mebibytes: int) -> dict[str, float]:
  """Saves twice, since the first save compiles the digests; measures the second."""
  import dataclasses

  import jax

  from transfusion_jax.training import checkpoint

  now = jax.block_until_ready(initial(mebibytes)(jax.random.key(0)))
  config = dataclasses.replace(checkpoint.ONE, newest=2)
  with checkpoint.Checkpoints(folder / 'checkpoints', config) as kept:
    kept.save(now, {})
    kept.wait()
    now = dataclasses.replace(now, step=now.step + 1)
    before, began = memory('VmRSS'), time.monotonic()
    kept.save(now, {})
    blocked = time.monotonic() - began
    kept.wait()
    whole = time.monotonic() - began
  peak = (memory('VmHWM') - before) / (mebibytes * MIB)
  return {'blocked s': blocked, 'whole save s': whole, 'memory of save': peak}


def restore(folder: pathlib.Path, mebibytes: int) -> dict[str, float]:
  """Restores the newest step in a fresh process."""
  import jax

  from transfusion_jax.training import checkpoint, checkpoint_reader

  made = jax.eval_shape(initial(mebibytes), jax.random.key(0))
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  wanted = checkpoint_reader.abstract(made, jax.tree.map(lambda _: place, made))
  with checkpoint.Checkpoints(folder / 'checkpoints', checkpoint.ONE) as kept:
    before, began = memory('VmRSS'), time.monotonic()
    jax.block_until_ready(kept.restore(wanted).state)
    seconds = time.monotonic() - began
  peak = (memory('VmHWM') - before) / (mebibytes * MIB)
  return {'restore s': seconds, 'memory of restore': peak}


def main() -> None:
  """Runs both parts and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--mebibytes', type=int, default=1024)
  parser.add_argument('--part', choices=('save', 'restore'))
  parser.add_argument('--folder', type=pathlib.Path)
  asked = parser.parse_args()
  if asked.part:
    act = {'save': save, 'restore': restore}[asked.part]
    print(json.dumps(act(asked.folder, asked.mebibytes)))
    return
  found: dict[str, float] = {}
  with tempfile.TemporaryDirectory() as folder:
    for part in ('save', 'restore'):
      arguments = [f'--part={part}', f'--folder={folder}']
      done = subprocess.run(
        [sys.executable, '-m', 'benchmarks.checkpoints', *arguments,
         f'--mebibytes={asked.mebibytes}'],
        env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
        stdout=subprocess.PIPE, text=True, check=True,
      )  # fmt: skip
      found |= json.loads(done.stdout.splitlines()[-1])
  print(f'| state of {asked.mebibytes:,} MiB | |\n| --- | --- |')
  for name, value in found.items():
    print(f'| {name} | {value:.2f} |')


if __name__ == '__main__':
  main()
