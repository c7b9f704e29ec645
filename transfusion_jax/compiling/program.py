"""Lowering and compilation of a step for devices that are not attached."""

import dataclasses
import math
import pathlib
import re
import tempfile
import time
from typing import Any

import jax
from jax.sharding import Mesh

from transfusion_jax.compiling import flops

LARGE = 2**20
"""Bytes from which a replicated weight is reported."""


class DoesNotFit(ValueError):
  """Error: the program needs more memory than the chip has.

  Attributes:
    times: needed memory as a multiple of the chip's; 1 if unknown.
  """

  def __init__(self, message: str, times: float = 1.0):
    super().__init__(message)
    self.times = times


@dataclasses.dataclass(frozen=True)
class Program:
  """Compiled step; bytes are per device.

  Attributes:
    seconds: duration of lowering and compilation.
    arguments: bytes of the arguments.
    outputs: bytes of the outputs.
    temporaries: bytes of temporary arrays.
    aliases: bytes of outputs that reuse the memory of arguments.
    flops: FLOPs of matrix products and convolutions over all devices, recomputation
      included.
    text: scheduled HLO.
  """

  seconds: float
  arguments: int
  outputs: int
  temporaries: int
  aliases: int
  flops: float
  text: str

  @property
  def peak_bytes(self) -> int:
    """Bytes of arguments, outputs and temporaries; shared memory counts once."""
    return self.arguments + self.outputs + self.temporaries - self.aliases


def build(step: Any, arguments: tuple[Any, ...], mesh: Mesh) -> Program:
  """Compiles a jitted step for the devices of a mesh.

  The scheduled HLO is dumped to a file and read back, because `as_text` of the compiled
  program fails for programs that use SparseCores.

  Args:
    step: jitted step of `train`, with shardings and donation.
    arguments: `jax.ShapeDtypeStruct`s with shardings.
    mesh: mesh whose chips kernels are compiled for.

  Raises:
    DoesNotFit: the program exceeds the memory of the chip.
  """
  began = time.monotonic()
  with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as folder:
    traced = step.trace(*arguments)
    lowered = traced.lower()
    options = {'xla_dump_to': folder, 'xla_dump_hlo_as_text': True}
    try:
      compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      raise exhausted(str(error)) from error
    seconds = time.monotonic() - began
    text = _dumped(pathlib.Path(folder)) or compiled.as_text()
  memory = compiled.memory_analysis()
  return Program(
    seconds=seconds,
    arguments=memory.argument_size_in_bytes,
    outputs=memory.output_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    aliases=memory.alias_size_in_bytes,
    flops=flops.of_jaxpr(traced.jaxpr.jaxpr),
    text=text,
  )


def exhausted(message: str) -> DoesNotFit:
  """Short form of the compiler's error about memory."""
  found = re.search(r'Used ([\d.]+)(\w) of ([\d.]+)(\w) hbm', message)
  if not found:
    return DoesNotFit(message.splitlines()[0])
  used, unit, most, other = found.groups()
  units = 'KMGT'
  times = float(used) / float(most) * 1024.0 ** (units.find(unit) - units.find(other))
  return DoesNotFit(f'needs {used}{unit} of {most}{other} HBM', times)


def shard_bytes(tree: Any) -> int:
  """Bytes per device of arrays with shardings."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def check_state(state: Any, hbm_bytes: int) -> None:
  """Checks, before compiling, that the state alone fits into memory.

  Raises:
    DoesNotFit: it does not.
  """
  held = shard_bytes(state)
  if held > hbm_bytes:
    raise DoesNotFit(
      f'needs {held / 2**30:.1f} GiB for its state alone, of {hbm_bytes / 2**30:.0f}',
      times=held / hbm_bytes,
    )


def replicated(params: Any) -> list[dict[str, Any]]:
  """Large weights that are replicated although the mesh divides weights.

  Args:
    params: nested dict of `jax.ShapeDtypeStruct`s with shardings.

  Returns:
    `name`, `shape` and `bytes` of each, largest first.
  """
  found = []
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    sizes = leaf.sharding.mesh.shape
    divides = max(sizes['fsdp'], sizes['tensor']) > 1
    bytes_ = leaf.size * leaf.dtype.itemsize
    if divides and bytes_ > LARGE and leaf.sharding.is_fully_replicated:
      name = '.'.join(str(getattr(key, 'key', key)) for key in path)
      found.append({'name': name, 'shape': list(leaf.shape), 'bytes': bytes_})
  return sorted(found, key=lambda each: -each['bytes'])


def _dumped(folder: pathlib.Path) -> str:
  """Text of the program after code generation: the largest dump, if several."""
  files = sorted(
    folder.glob('*after_codegen.txt'), key=lambda path: path.stat().st_size
  )
  return files[-1].read_text() if files else ''
