"""Kernels compile for every TPU generation, ahead of time, without a TPU.

Mosaic runs in full: kernels that do not fit fast memory or that use what a generation
lacks fail here. It needs libtpu, which `pip install -e '.[test]'` brings to Linux.
"""

import functools
import os

import jax
import jax.numpy as jnp
import pytest

from benchmarks import as_compiled
from transfusion_jax.compiling import environment
from transfusion_jax.ops import attention, context, rope, span

pytestmark = [pytest.mark.compiler, pytest.mark.usefixtures('optimized')]

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


def compiled(generation, function, *shapes):
  made = as_compiled.compiled(generation, function, *shapes)
  assert 'tpu_custom_call' in made.as_text()
  return made


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('generation', as_compiled.TOPOLOGY)
def test_attention_compiles(libtpu, generation, name):
  dtype, h, g, d, n, m = CASES[name]
  q, k, bound = ((1, h, n, d), dtype), ((1, g, m, d), dtype), ((1, n), jnp.int32)
  made = compiled(generation, values_and_gradients, q, k, k, q, bound, bound)
  # Memory for a few arrays like the queries, in float32, and none for scores.
  most = 16 * 2**20 + 8 * 4 * h * n * max(d, 128)
  assert made.memory_analysis().temp_size_in_bytes < most


@pytest.mark.parametrize('head_dim', [128, 512])
@pytest.mark.parametrize('generation', as_compiled.TOPOLOGY)
def test_attention_within_pictures_compiles(libtpu, generation, head_dim):
  """Up to the widest heads that are not left to XLA."""

  def attended(q, k, v, do):
    attend = functools.partial(context.attend_all, backend='tpu')
    o, pull = jax.vjp(attend, q, k, v)
    return o, *pull(do)

  x = ((3, 2, 1024, head_dim), jnp.bfloat16)
  made = compiled(generation, attended, x, x, x, x)
  assert made.memory_analysis().temp_size_in_bytes < 16 * 2**20


@pytest.mark.parametrize(
  ('dtype', 'heads', 'head_dim'),
  [(jnp.bfloat16, 16, 128), (jnp.bfloat16, 12, 64), (jnp.float32, 2, 256)],
)
@pytest.mark.parametrize('generation', as_compiled.TOPOLOGY)
def test_rotation_compiles(libtpu, generation, dtype, heads, head_dim):
  x, position = ((2, heads, 4096, head_dim), dtype), ((2, 4096), jnp.int32)
  made = compiled(generation, rotated, x, x, position)
  # Memory for angles, and at most for `x` in another layout and back.
  padded = 2 * 4096 * max(head_dim, 128)
  most = 2**20 + 4 * 4 * padded + 2 * heads * padded * jnp.dtype(dtype).itemsize
  assert made.memory_analysis().temp_size_in_bytes < most
