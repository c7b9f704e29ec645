"""Compilation of kernels for one TPU chip without hardware, for benchmarks.

Nothing runs. XLA annotates every scheduled instruction with `estimated_cycles`, except
Pallas kernels; for those the compiler dumps the final instruction words (bundles). JAX
is imported inside functions, since the environment has to be set before.
"""

import glob
import os
import re
from typing import Any

from transfusion_jax.compiling import environment

TOPOLOGY = {
  'v4': 'v4:2x2x1',
  'v5e': 'v5e:2x2',
  'v5p': 'v5p:2x2x1',
  'v6e': 'v6e:2x2',
  'tpu7x': 'tpu7x:2x2x1',
}


def dump_to(directory: str) -> None:
  """Makes the compiler dump kernel code to a folder; call before importing JAX."""
  os.environ.update(
    environment.VARIABLES,
    LIBTPU_INIT_ARGS=f'--xla_jf_dump_to={directory} --xla_jf_dump_llo_text=true '
    '--xla_jf_dump_llo_pass_label_regex=.*final.*',
  )


def compiled(generation: str, function: Any, *shapes: tuple[Any, Any]) -> Any:
  """Compiles a function of arrays, given by shape and type, for one chip."""
  import jax
  import numpy as np
  from jax.experimental import topologies
  from jax.sharding import Mesh, NamedSharding, PartitionSpec

  topology = topologies.get_topology_desc(
    platform='tpu', topology_name=TOPOLOGY[generation]
  )
  mesh = Mesh(np.array(topology.devices[:1]), ('device',))
  sharding = NamedSharding(mesh, PartitionSpec())
  arrays = [jax.ShapeDtypeStruct(*each, sharding=sharding) for each in shapes]
  with jax.set_mesh(mesh):
    return jax.jit(function).lower(*arrays).compile()


def xla_cycles(text: str) -> int:
  """Estimated cycles of the entry computation, which must not contain loops."""
  from transfusion_jax.compiling import hlo

  module = hlo.parse(text)
  entry = module.computations[module.entry]
  return sum(each.cycles or 0 for each in entry.instructions)


def kernels(directory: str) -> dict[str, list[int]]:
  """Reads the segments of all dumped kernels by name, and empties the directory."""
  found = {}
  for path in sorted(glob.glob(f'{directory}/*-final_bundles.txt')):
    name = re.sub(r'^\d+-|-\d+-final_bundles.txt$|\.\d+', '', os.path.basename(path))
    if re.search('kernel|splash|rotate', name):
      found[name] = _segments(path)
  for path in glob.glob(f'{directory}/*.*'):
    os.remove(path)
  return found


def _segments(path: str) -> list[int]:
  """Numbers of bundles between consecutive branches."""
  branches, last = [], 0
  with open(path) as file:
    for line in file:
      found = re.match(r'\s*(0x[0-9a-f]+|0)\s*(?:[A-Z]{2})?\s*:', line)
      if found:
        last = int(found[1], 16)
        if 'sbr.rel' in line:
          branches.append(last)
  edges = [-1, *branches, last]
  return [after - before for before, after in zip(edges, edges[1:], strict=False)]
