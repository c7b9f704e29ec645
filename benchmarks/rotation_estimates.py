"""Compares compiled rotary embedding by XLA and by the kernel.

One row of 4,096 positions, 32 heads of 128, bfloat16: queries, forward and backward.
The angles, which all layers share, are arguments.

  python -m benchmarks.rotation_estimates [--generations v5e v6e]

prints for every generation of TPUs

  xla_ms           the compiler's estimate for its own code
  kernel_ms        the estimate of `compile_check` for the kernel: bytes / `loop_rate`
  bundles_ms       instruction words of the kernel over the clock, without stalls
  loop_rate        bytes/s in the compiler's estimate for an XLA loop that multiplies
                   and adds as many numbers: the source of `topologies.Chip.loop_rate`

Nothing runs.
"""

import argparse
import functools
import json
import math
import tempfile

from benchmarks import as_compiled

SHAPE = (1, 32, 4096, 128)
BLOCKS, CHUNKS = 32, 16  # of the kernel at this shape, and chunks of positions in each


def rotated(x, dy, cos, sin, *, backend):
  """Rotates values and their gradients."""
  import jax

  from transfusion_jax.ops import rope

  by = rope.Rotation(cos, sin)
  y, pull = jax.vjp(lambda x: rope.rotate(x, by, backend=backend), x)
  return y, *pull(dy)


def report(generation: str, directory: str) -> dict[str, object]:
  """Results for a generation of TPUs."""
  import jax.numpy as jnp

  from transfusion_jax.compiling import topologies

  chip = topologies.CHIPS[generation]
  x, angles = (SHAPE, jnp.bfloat16), ((1, 1, *SHAPE[2:]), jnp.float32)
  arrays = (x, x, angles, angles)
  size = 2 * math.prod(SHAPE)

  def cycles(function, *shapes):
    return as_compiled.xla_cycles(
      as_compiled.compiled(generation, function, *shapes).as_text()
    )

  own = cycles(lambda x: (2 * x.astype(jnp.float32) + 1).astype(x.dtype), x)
  xla = cycles(functools.partial(rotated, backend='xla'), *arrays)
  as_compiled.kernels(directory)
  as_compiled.compiled(generation, functools.partial(rotated, backend='tpu'), *arrays)
  found = as_compiled.kernels(directory).values()  # forward and backward
  assert len(found) == 2
  bundles = sum(BLOCKS * (sum(each) + (CHUNKS - 1) * max(each)) for each in found)
  moved = 2 * size + 2 * 4 * SHAPE[2] * SHAPE[3]
  return {
    'generation': generation,
    'xla_ms': round(1e3 * xla / chip.clock, 3),
    'kernel_ms': round(2e3 * moved / chip.loop_rate, 3),
    'bundles_ms': round(1e3 * bundles / chip.clock, 3),
    'loop_rate': f'{2 * size * chip.clock / own:.3g}',
  }


def main() -> None:
  """Compiles in this process and reads the compiler's dumps."""
  known = sorted(as_compiled.TOPOLOGY)
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--generations', nargs='+', default=known, choices=known)
  with tempfile.TemporaryDirectory() as directory:
    as_compiled.dump_to(directory)
    for generation in parser.parse_args().generations:
      print(json.dumps(report(generation, directory)), flush=True)


if __name__ == '__main__':
  main()
