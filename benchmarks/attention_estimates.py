"""Compares span attention with dense and splash attention, compiled for a TPU.

Nothing runs: the figures are estimates from compiled code, for one row of packed
documents with images, forward and backward. Compare them by ratio.

* XLA annotates every scheduled instruction with `estimated_cycles`.
* Pallas kernels have no such estimate. The benchmark counts the instruction words
  (bundles) of their final code, times their number of executions. Writing an output
  block is counted once per block for splash attention but once per step for our kernel,
  so that the ratio errs against ours. Neither count includes stalls.

  python -m benchmarks.attention_estimates --generation=v5e
"""

import argparse
import functools
import json
import tempfile

from benchmarks import as_compiled

LENGTH, HEADS, HEAD_DIM, BLOCK = 4096, 16, 128, 512
DOCUMENTS = (1100, 700, 1300, 996)
IMAGE, BETWEEN = 256, 100  # patches of an image, tokens before it


def spans():
  """Start and end of every query of a row of packed documents with images."""
  import numpy as np

  start, end, position = np.zeros(LENGTH, np.int32), np.arange(1, LENGTH + 1), 0
  for length in DOCUMENTS:
    start[position : position + length] = position
    for image in range(position + BETWEEN, position + length, IMAGE + BETWEEN):
      last = min(image + IMAGE, position + length)
      end[image:last] = last
    position += length
  assert position == LENGTH
  return start[None], end[None].astype(np.int32)


def compiled(generation, attend):
  """Compiles values and gradients of `attend(q, k, v, start, end)`."""
  import jax
  import jax.numpy as jnp

  def both(q, k, v, do, start, end):
    o, pull = jax.vjp(lambda q, k, v: attend(q, k, v, start, end), q, k, v)
    return o, *pull(do)

  x = ((1, HEADS, LENGTH, HEAD_DIM), jnp.bfloat16)
  bound = ((1, LENGTH), jnp.int32)
  return as_compiled.compiled(generation, both, x, x, x, x, bound, bound)


def spanned(q, k, v, start, end, *, backend):
  """Span attention, as called by a model."""
  from transfusion_jax.ops import attention, span

  return attention.attend(q, k, v, span=span.Span(start, end), backend=backend)


def splash(q, k, v, start, end, *, fused, documents):
  """Splash attention, causal and optionally within documents; it has no spans."""
  import jax
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernel,
  )
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
  )

  names = ['q', 'kv', 'kv_compute', 'q_dkv', 'kv_dkv', 'kv_dkv_compute']
  names += [] if fused else ['q_dq', 'kv_dq']
  sizes = kernel.BlockSizes(
    **{f'block_{name}': BLOCK for name in names}, use_fused_bwd_kernel=fused
  )
  mask = masks.MultiHeadMask([masks.CausalMask((LENGTH, LENGTH))] * HEADS)
  call = kernel.make_splash_mha(mask, head_shards=1, q_seq_shards=1, block_sizes=sizes)
  segments = kernel.SegmentIds(start, start) if documents else None
  scaled = (q * HEAD_DIM**-0.5).astype(q.dtype)
  return jax.vmap(call, in_axes=(0, 0, 0, 0 if documents else None))(
    scaled, k, v, segments
  )


def step_counts():
  """Number of steps without and with a mask, forward; the same number backward."""
  import jax.numpy as jnp

  from transfusion_jax.ops import schedule, span

  plan = schedule.plan(span.Span(*map(jnp.asarray, spans())), LENGTH)
  work = plan.by_query[plan.by_query & schedule.WORK != 0]
  masked = int((work & schedule.MASK != 0).sum())
  return len(work) - masked, masked


def own_cycles(found):
  """Cycles of our kernels.

  Order of the code: the part of every step; in the backward kernel, clearing `dq` of a
  head; clearing an output block; the products without mask; those with mask; and the
  rest, counted as if every step wrote its output.
  """
  whole, masked = step_counts()
  total = 0
  for name, parts in found.items():
    at, after = sorted(sorted(range(len(parts)), key=parts.__getitem__)[-2:])
    assert after == at + 1
    once = parts[at - 2] if 'key_kernel' in name else 0
    cleared = parts[at - 1]
    every = sum(parts) - parts[at] - parts[after] - cleared - once
    products = parts[at] * whole + parts[after] * masked
    blocks = LENGTH // BLOCK
    total += HEADS * (once + cleared * blocks + products + every * (whole + masked))
  return total


def splash_cycles(found):
  """Cycles of splash attention on the blocks of its mask: those below the diagonal.

  Order of the code: the part of every step, clearing an output block, the products,
  writing the block, and the rest. Steps above the diagonal, which do nothing, are not
  counted.
  """
  side = LENGTH // BLOCK
  steps = side * (side + 1) // 2
  total = 0
  for parts in found.values():
    at = max(range(len(parts)), key=parts.__getitem__)
    once = parts[at - 1] + parts[at + 1]
    every = sum(parts) - parts[at] - once
    total += HEADS * (side * once + steps * (parts[at] + every))
  return total


def main():
  """Compiles all variants in this process and reads the compiler's dumps."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    '--generation', choices=sorted(as_compiled.TOPOLOGY), default='v5e'
  )
  generation = parser.parse_args().generation
  with tempfile.TemporaryDirectory() as directory:
    as_compiled.dump_to(directory)
    report(generation, directory)


def report(generation, directory):
  """Prints a line of JSON for every variant."""
  from transfusion_jax.compiling import topologies

  clock = topologies.CHIPS[generation].clock
  variants = {
    'xla_dense': (functools.partial(spanned, backend='xla_dense'), None),
    **{
      f'splash, {mask}{way}': (
        functools.partial(splash, fused=bool(way), documents=mask == 'documents'),
        splash_cycles,
      )
      for mask in ('documents', 'causal')
      for way in ('', ', fused')
    },
    'tpu': (functools.partial(spanned, backend='tpu'), own_cycles),
  }
  times = {}
  print(json.dumps({'steps of a head (whole, masked)': step_counts()}))
  for name, (attend, count) in variants.items():
    program = compiled(generation, attend)
    found = as_compiled.kernels(directory)
    cycles = {
      'xla': as_compiled.xla_cycles(program.as_text()),
      'kernels': count(found) if count else 0,
    }
    parts = {k: 1e3 * v / clock for k, v in cycles.items()}
    times[name] = sum(parts.values())
    line = {
      'generation': generation,
      'variant': name,
      'estimated_ms': round(times[name], 3),
      **{f'{k}_ms': round(v, 3) for k, v in parts.items()},
      'temporary_mib': round(program.memory_analysis().temp_size_in_bytes / 2**20, 1),
      'bundles of products': {k: sorted(v)[-2:] for k, v in found.items()},
    }
    print(json.dumps(line), flush=True)
  ours = times['tpu']
  print(json.dumps({f'tpu / {k}': round(ours / v, 3) for k, v in times.items()}))


if __name__ == '__main__':
  main()
