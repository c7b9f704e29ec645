"""Kernels compile for every TPU generation, ahead of time, without a TPU.

Mosaic runs in full: kernels that do not fit fast memory or that use what a generation
lacks fail here. It needs libtpu, which `pip install -e '.[test]'` brings to Linux.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from transfusion_jax.compiling import environment
from transfusion_jax.ops import attention, rope, span

pytestmark = pytest.mark.slow

GENERATIONS = {
  'v4': 'v4:2x2x1',
  'v5e': 'v5e:2x2',
  'v5p': 'v5p:2x2x1',
  'v6e': 'v6e:2x2',
  'tpu7x': 'tpu7x:2x2x1',
}
CASES = {
  # dtype, heads, key heads, head dim, queries, keys
  'usual': (jnp.bfloat16, 16, 16, 128, 4096, 4096),
  'long': (jnp.bfloat16, 4, 1, 64, 32_768, 32_768),
  'wide': (jnp.float32, 2, 2, 256, 4096, 4096),
  'odd': (jnp.bfloat16, 2, 2, 128, 300, 5000),
}


@pytest.fixture(scope='module')
def libtpu():
  """The compiler, told not to look for a TPU."""
  pytest.importorskip('libtpu', reason='needs libtpu, for x86-64 Linux')
  with pytest.MonkeyPatch.context() as patch:
    for name, value in environment.VARIABLES.items():
      patch.setitem(os.environ, name, value)
    yield


def values_and_gradients(q, k, v, do, start, end):
  spans = span.Span(start, end)
  o, pull = jax.vjp(
    lambda q, k, v: attention.attend(q, k, v, spans, backend='tpu'), q, k, v
  )
  return o, *pull(do)


def rotated(x, dy, position):
  by = rope.rotation(position, head_dim=x.shape[-1], base=1e4)
  y, pull = jax.vjp(lambda x: rope.rotate(x, by, backend='tpu'), x)
  return y, *pull(dy)


def lowered(generation, function, *shapes):
  """A function of arrays, given by shape and type, for one chip of a generation."""
  topology = topologies.get_topology_desc(
    platform='tpu', topology_name=GENERATIONS[generation]
  )
  mesh = Mesh(np.array(topology.devices[:1]), ('device',))
  sharding = NamedSharding(mesh, PartitionSpec())

  arrays = [jax.ShapeDtypeStruct(*each, sharding=sharding) for each in shapes]
  with jax.set_mesh(mesh):
    made = jax.jit(function).lower(*arrays)
  assert 'tpu_custom_call' in made.as_text()
  return made


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('generation', GENERATIONS)
def test_attention_compiles(libtpu, generation, name):
  dtype, h, g, d, n, m = CASES[name]
  q, k, bound = ((1, h, n, d), dtype), ((1, g, m, d), dtype), ((1, n), jnp.int32)
  made = lowered(generation, values_and_gradients, q, k, k, q, bound, bound)
  compiled = made.compile()
  # Memory for a few arrays like the queries, in float32, and none for scores.
  most = 16 * 2**20 + 8 * 4 * h * n * max(d, 128)
  assert compiled.memory_analysis().temp_size_in_bytes < most


@pytest.mark.parametrize(
  ('dtype', 'heads', 'head_dim'),
  [(jnp.bfloat16, 16, 128), (jnp.bfloat16, 12, 64), (jnp.float32, 2, 256)],
)
@pytest.mark.parametrize('generation', GENERATIONS)
def test_rotation_compiles(libtpu, generation, dtype, heads, head_dim):
  x, position = ((2, heads, 4096, head_dim), dtype), ((2, 4096), jnp.int32)
  compiled = lowered(generation, rotated, x, x, position).compile()
  # Memory for angles, and at most for `x` in another layout and back; none in float32.
  padded = 2 * 4096 * max(head_dim, 128)
  most = 2**20 + 4 * 4 * padded + 2 * heads * padded * jnp.dtype(dtype).itemsize
  assert compiled.memory_analysis().temp_size_in_bytes < most
