"""What the processes of a run tell each other; one process alone has nobody to tell.

All processes call these functions, but `leads`, at the same point of the run: each is a
computation in which all devices take part.
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
  """Whether this process writes what only one may write, and speaks for all."""
  return jax.process_index() == 0


def meet(name: str) -> None:
  """Returns once every process is here, for example when `leads` has written a file."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def largest(value: int) -> jax.Array | int:
  """The largest of what the processes say; only reading it waits for the others."""
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
  """The trouble of this process, or that another one has some; empty if none has."""
  found = int(largest(int(bool(own))))
  return own or ('another process has trouble' if found else '')


@functools.cache
def _largest():
  return jax.jit(jnp.max, out_shardings=axes.replicated(mesh_lib.line()))


def together(state: dict[str, Any]) -> dict[str, Any]:
  """What the processes know, as one: nested dicts, ready for JSON, of any lengths."""
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
  """Nested dicts as one; what both know, they know alike."""
  if not isinstance(one, dict):
    assert one == other, (one, other)
    return one
  common = {name: merged(one[name], other[name]) for name in one.keys() & other.keys()}
  return {**one, **other, **common}


def own(tree: Any, mesh: Mesh) -> Any:
  """Whole arrays for this process alone, from arrays that are divided over all.

  One process keeps them as they are: its arrays are its own.
  """
  if jax.process_count() == 1:
    return tree
  whole = jax.jit(lambda tree: tree, out_shardings=axes.replicated(mesh))(tree)
  return jax.tree.map(lambda array: array.addressable_data(0), whole)
