"""FLOPs against counts by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from tests.support import tiny
from transfusion_jax.compiling import flops
from transfusion_jax.ops import attention, context, span


def test_matrix_products_convolutions_and_loops():
  a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
  assert flops.count(jnp.matmul, a, b) == 2 * 3 * 4 * 5
  batched = flops.count(
    lambda x, y: jnp.einsum('bij,bjk->bik', x, y),
    jnp.ones((7, 3, 4)),
    jnp.ones((7, 4, 5)),
  )
  assert batched == 7 * 2 * 3 * 4 * 5

  def scanned(x):
    return jax.lax.scan(lambda c, _: (c @ jnp.ones((4, 4)), None), x, length=6)[0]

  assert flops.count(jax.jit(scanned), a) == 6 * 2 * 3 * 4 * 4


def test_loops_of_unknown_length_have_the_rounds_that_are_said():
  def inner(x):
    return jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ x, x)

  def outer(x):
    return jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: inner(x) @ x, x)

  x, once = jnp.ones((4, 4)), 2 * 4 * 4 * 4
  assert flops.count(outer, x) == 2 * once
  assert flops.count(outer, x, rounds=(3,)) == 3 * 2 * once
  assert flops.count(outer, x, rounds=(3, 5)) == 3 * (5 + 1) * once


def test_convolutions():
  x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))

  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  assert flops.count(convolve, x, kernel) == 2 * (2 * 4 * 4 * 5) * 27


@pytest.mark.parametrize(('head_dim', 'priced'), [(64, 128), (128, 128), (256, 256)])
def test_a_kernel_counts_what_it_keeps_busy(head_dim, priced):
  """Half of all pairs in text, all of them in pictures; no head as one below 128."""
  q = jnp.ones((2, 3, 1024, head_dim))
  start = jnp.zeros((2, 1024), jnp.int32)
  causal = span.Span(start, start + 1 + jnp.arange(1024)[None])
  attend = functools.partial(attention.attend, backend='tpu')
  all_pairs = 4 * 2 * 3 * 1024 * 1024 * priced
  assert flops.count(attend, q, q, q, causal) == all_pairs / 2
  within = functools.partial(context.attend_all, backend='tpu')
  assert flops.count(within, q, q, q) == all_pairs


def test_the_backward_pass_takes_twice_the_forward_pass():
  a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
  both = jax.grad(lambda a, b: jnp.sum(jnp.sin(a @ b)), argnums=(0, 1))
  assert flops.count(both, a, b) == 3 * flops.count(jnp.matmul, a, b)


def test_what_is_recomputed_counts():
  a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
  product = jax.checkpoint(lambda a, b: jnp.sum(jnp.sin(a @ b)))
  both = jax.grad(product, argnums=(0, 1))
  assert flops.count(both, a, b) == 4 * flops.count(jnp.matmul, a, b)


@pytest.mark.parametrize(('images', 'patches'), [(0, 4), (2, 3)])
def test_visible_pairs(images, patches):
  length = 10
  end = [i + 1 for i in range(length)]
  for image in range(images):
    first = 1 + image * (patches + 1)
    end[first : first + patches] = [first + patches] * patches
  found = flops.visible_pairs(length=length, images=images, patches=patches)
  assert found == sum(end)


def test_the_formula():
  shapes = {
    'transformer': {'w': jnp.ones((2, 3))},
    'head': {'w': jnp.ones(4)},
    'embedding': jnp.ones(100),  # is looked up
  }
  plan = tiny.blueprint().definition.bind(tiny.params()).config.transformer
  decoder = dataclasses.replace(plan, heads=2, head_dim=2, depth=3)
  found = flops.model(shapes, decoder, tokens=7, pairs=28, adapter=5.0)
  assert found == 6 * 10 * 7 + 12 * 28 * 4 * 3 + 15
