"""Every size of the paper on three pods: memory, estimated step time and MFU.

  pip install -e '.[tpu]'
  python -m benchmarks.pods --json=pods.jsonl

compiles the steps of all five sizes with both adapters for v5e:16x16, v5p:8x8x8 and
v6e:16x16 at the paper's batch (512 rows of 4,096 positions) with
`transfusion_jax.compile_check`, one after the other, and prints the README's table.
Results that are in the file already are reused. The linear adapter takes an hour on two
cores, the U-Net four more; `--sizes=7b --chips=v5e` compiles a part.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

SIZES = ('160m', '370m', '760m', '1_4b', '7b')
ADAPTERS = ('linear', 'unet')
TOPOLOGIES = {'v5e': 'v5e:16x16', 'v5p': 'v5p:8x8x8', 'v6e': 'v6e:16x16'}

SPARSE_CORE = (
  *(
    f'--xla_tpu_enable_sparse_core_collective_offload_{kind}=true'
    for kind in ('all_gather', 'reduce_scatter', 'all_reduce')
  ),
  '--xla_tpu_use_tc_device_shape_on_sc=true',
  '--xla_sc_enable_instruction_fusion=false',
  '--xla_sc_disable_megacore_partitioning=true',
)
"""Compiler flags that offload collectives to the SparseCores of a chip."""


def choice(size: str, adapter: str, chip: str) -> dict[str, Any]:
  """Mesh, micro-batches and remat policy: for 7B the fastest of those tried by hand."""
  large = size == '7b'
  if chip == 'v5p':
    return {'data': 64, 'fsdp': 8, 'microbatches': 1, 'remat': 'minimal'}
  if chip == 'v6e':
    return {'data': 16, 'fsdp': 16, 'microbatches': 2, 'remat': 'minimal'}
  if large and adapter == 'unet':
    return {'data': 8, 'fsdp': 32, 'microbatches': 2, 'remat': 'full'}
  remat = 'full' if large else 'minimal'
  return {'data': 16, 'fsdp': 16, 'microbatches': 2, 'remat': remat}


def compiled(size: str, adapter: str, chip: str) -> dict[str, Any]:
  """Result of `compile_check` for one combination."""
  chosen = choice(size, adapter, chip)
  environment = dict(os.environ)
  if chip != 'v5e':
    environment['LIBTPU_INIT_ARGS'] = ' '.join(SPARSE_CORE)
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / 'found.json'
    command = [
      *(sys.executable, '-m', 'transfusion_jax.compile_check'),
      f'--config=configs/transfusion_{size}.py:{adapter}',
      f'--topology={TOPOLOGIES[chip]}',
      f'--config.mesh.data={chosen["data"]}',
      f'--config.mesh.fsdp={chosen["fsdp"]}',
      f'--config.train.microbatches={chosen["microbatches"]}',
      f'--config.model.transformer.remat={chosen["remat"]}',
      f'--json={file}',
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if not file.exists():
      raise RuntimeError(done.stderr[-2000:])
    found = json.loads(file.read_text())
  return {'size': size, 'adapter': adapter, 'chip': chip, **chosen, **found}


def row(found: dict[str, Any]) -> str:
  """Line of the table."""
  if 'peak_bytes' not in found:
    return f'| {found["size"]} | {found["adapter"]} | DOES NOT FIT: {found["reason"]} |'
  memory = f'{found["peak_bytes"] / 2**30:.1f} of {found["hbm_bytes"] / 2**30:.0f}'
  cells = (
    found['size'].replace('_', '.').upper(),
    found['adapter'],
    found['topology'],
    f'{found["data"]} x {found["fsdp"]}',
    f'{found["microbatches"]}, {found["remat"]}',
    memory + ('' if found['fits'] else ', DOES NOT FIT'),
    f'{1e3 * found["step_seconds"]:,.0f}',
    f'{100 * found["mfu"]:.0f} %',
  )
  return f'| {" | ".join(cells)} |'


def main() -> None:
  """Compiles missing combinations, then prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--json', required=True, help='file of one line per step')
  parser.add_argument('--sizes', nargs='+', default=SIZES, choices=SIZES)
  parser.add_argument('--adapters', nargs='+', default=ADAPTERS, choices=ADAPTERS)
  parser.add_argument('--chips', nargs='+', default=[*TOPOLOGIES], choices=TOPOLOGIES)
  arguments = parser.parse_args()
  file = pathlib.Path(arguments.json)
  known = {}
  if file.exists():
    lines = map(json.loads, file.read_text().splitlines())
    known = {(each['size'], each['adapter'], each['chip']): each for each in lines}
  wanted = [
    (size, adapter, chip)
    for size in arguments.sizes
    for adapter in arguments.adapters
    for chip in arguments.chips
  ]
  for key in wanted:
    if key not in known:
      known[key] = compiled(*key)
      with file.open('a') as out:
        out.write(json.dumps(known[key]) + '\n')
    print(row(known[key]), flush=True)


if __name__ == '__main__':
  main()
