"""Communication between the processes of a run; trivial for a single process.

All processes must call these functions, except `leads`, at the same point of the run:
each is a computation on all devices.
"""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from transfusion_jax.core import axes
from transfusion_jax.training import mesh as mesh_lib


def leads() -> bool:
  """True for the first process, which writes shared files and logs for all."""
  return jax.process_index() == 0


def meet(name: str) -> None:
  """Waits for all processes, for example until the first one has written a file."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def largest(value: int) -> jax.Array | int:
  """Largest value of all processes; only reading the result waits for the others."""
  if jax.process_count() == 1:
    return value
  line = mesh_lib.line()
  said = jax.make_array_from_callback(
    (line.size,),
    NamedSharding(line, PartitionSpec('device')),
    lambda _: np.full(1, value, np.int32),
  )
  return _largest()(said)


def trouble(own: str) -> str:
  """Error text of this process, or a note that another one has an error; else empty."""
  found = int(largest(int(bool(own))))
  return own or ('another process has trouble' if found else '')


@functools.cache
def _largest():
  return jax.jit(jnp.max, out_shardings=axes.replicated(mesh_lib.line()))


def together(state: dict[str, Any]) -> dict[str, Any]:
  """Merges the nested dicts (JSON values) of all processes."""
  if jax.process_count() == 1:
    return state
  text = np.frombuffer(json.dumps(state).encode(), np.uint8)
  length = int(largest(len(text)))
  texts = multihost_utils.process_allgather(np.pad(text, (0, length - len(text))))
  states = [json.loads(bytes(text).rstrip(b'\0')) for text in texts]
  whole = states[0]
  for each in states[1:]:
    whole = merged(whole, each)
  return whole


def merged(one: Any, other: Any) -> Any:
  """Merges two nested dicts, which must agree where both have a value."""
  if not isinstance(one, dict):
    assert one == other, (one, other)
    return one
  common = {name: merged(one[name], other[name]) for name in one.keys() & other.keys()}
  return {**one, **other, **common}


def own(tree: Any, mesh: Mesh) -> Any:
  """Gathers arrays that are divided over all processes into arrays of this one.

  A single process keeps its arrays unchanged.
  """
  if jax.process_count() == 1:
    return tree
  whole = jax.jit(lambda tree: tree, out_shardings=axes.replicated(mesh))(tree)
  return jax.tree.map(lambda array: array.addressable_data(0), whole)
