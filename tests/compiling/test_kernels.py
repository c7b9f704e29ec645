"""The attention kernel compiles for every TPU generation, ahead of time, without a TPU.

Mosaic runs in full: kernels that do not fit fast memory or that use what a generation
lacks fail here. It needs libtpu, which `pip install -e '.[tpu,test]'` brings.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from transfusion_jax.compiling import environment
from transfusion_jax.ops import attention, span

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
  pytest.importorskip('libtpu', reason="needs libtpu: pip install -e '.[tpu,test]'")
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


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('generation', GENERATIONS)
def test_compiles(libtpu, generation, name):
  dtype, h, g, d, n, m = CASES[name]
  topology = topologies.get_topology_desc(
    platform='tpu', topology_name=GENERATIONS[generation]
  )
  mesh = Mesh(np.array(topology.devices[:1]), ('device',))
  sharding = NamedSharding(mesh, PartitionSpec())

  def array(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  q, k = array((1, h, n, d), dtype), array((1, g, m, d), dtype)
  bound = array((1, n), jnp.int32)
  with jax.set_mesh(mesh):
    lowered = jax.jit(values_and_gradients).lower(q, k, k, q, bound, bound)
  compiled = lowered.compile()
  # Memory for a few arrays like the queries, in float32, and none for scores.
  assert 'tpu_custom_call' in lowered.as_text()
  most = 16 * 2**20 + 8 * 4 * h * n * max(d, 128)
  assert compiled.memory_analysis().temp_size_in_bytes < most
