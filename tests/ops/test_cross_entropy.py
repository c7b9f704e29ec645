"""Cross-entropy in chunks: the dense formula's numbers without its memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transfusion_jax.compiling import collectives, hlo
from transfusion_jax.core import axes, sharding
from transfusion_jax.ops import cross_entropy
from transfusion_jax.training import mesh as mesh_lib

B, T, E, V, USED = 8, 4, 6, 640, 533


def arguments(dtype=jnp.float32):
  """Hidden states, matrix, targets and the weights of a sum."""
  keys = jax.random.split(jax.random.key(0), 4)
  return (
    jax.random.normal(keys[0], (B, T, E)).astype(dtype),
    jax.random.normal(keys[1], (E, V)).astype(dtype),
    jax.random.randint(keys[2], (B, T), 0, USED),
    jax.random.bernoulli(keys[3], 0.7, (B, T)).astype(jnp.float32),
  )


def dense(hidden, matrix, targets):
  """The definition, in float32."""
  logits = hidden.astype(jnp.float32) @ matrix.astype(jnp.float32)[:, :USED]
  chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)
  return -chosen[..., 0]


def ours(columns):
  return functools.partial(cross_entropy.cross_entropy, used=USED, columns=columns)


def measured(nats, hidden, matrix, targets, weight):
  """Nats, and the gradients of a weighted sum of them."""

  def total(hidden, matrix):
    found = nats(hidden, matrix, targets=targets)
    return jnp.sum(found * weight * 0.1), found

  both = jax.grad(total, argnums=(0, 1), has_aux=True)
  gradients, found = jax.jit(both)(hidden, matrix)
  return found, *gradients


def assert_close(found, expected, rtol):
  for a, b in zip(found, expected, strict=True):
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(jnp.abs(b).max()))


@pytest.mark.parametrize('columns', [1, 130, 384, 639, None])
def test_any_block_gives_the_dense_values_and_gradients(columns):
  found = measured(ours(columns), *arguments())
  assert_close(found, measured(dense, *arguments()), rtol=2e-6)
  assert float(jnp.abs(found[2][:, :USED]).min()) > 0
  assert not found[2][:, USED:].any()


@pytest.mark.parametrize('columns', [128, 640])
def test_bfloat16_products_add_up_in_float32(columns):
  low = arguments(jnp.bfloat16)
  nats, *gradients = measured(ours(columns), *low)
  high = [x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x for x in low]
  expected, *expected_gradients = measured(dense, *high)
  np.testing.assert_allclose(nats, expected, rtol=1e-6)
  assert {each.dtype for each in gradients} == {jnp.dtype('bfloat16')}
  assert_close(gradients, expected_gradients, rtol=0.01)


def test_the_gradient_of_the_matrix_is_added_up_in_float32():
  """In bfloat16 a sum of 4096 halves would stop at 128."""
  hidden, matrix = jnp.ones((1, 4096, 1), jnp.bfloat16), jnp.zeros((1, 2), jnp.bfloat16)

  def total(matrix):
    targets = jnp.zeros((1, 4096), jnp.int32)
    return jnp.sum(cross_entropy.cross_entropy(hidden, matrix, targets, used=2))

  np.testing.assert_array_equal(jax.grad(total)(matrix), [[-2048.0, 2048.0]])


@pytest.mark.parametrize('columns', [128, 640])
def test_large_logits_do_not_overflow(columns):
  hidden, *rest = arguments()
  found = measured(ours(columns), 300.0 * hidden, *rest)
  assert all(bool(jnp.isfinite(each).all()) for each in found)
  np.testing.assert_allclose(found[0], dense(300.0 * hidden, *rest[:2]), rtol=1e-5)


def largest(jaxpr):
  """Elements of the largest array made anywhere in a jaxpr."""
  found = 0
  for equation in jaxpr.eqns:
    found = max([found, *(each.aval.size for each in equation.outvars)])
    for value in jax.tree.leaves(list(equation.params.values())):
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        found = max(found, largest(inner))
  return found


def traced(nats, *rest):
  """The largest array of value and gradients."""
  return largest(jax.make_jaxpr(lambda *rest: measured(nats, *rest))(*rest))


def test_no_array_holds_the_logits_of_all_tokens():
  assert traced(dense, *arguments()) >= B * T * USED
  assert traced(ours(640), *arguments()) == B * T * V
  assert traced(ours(128), *arguments()) == B * T * 128


@pytest.mark.parametrize(('block', 'barriers'), [(640, 0), (128, 1)])
def test_a_block_of_the_gradient_is_written_after_all_reads(block, barriers):
  """Without the barrier a TPU's compiler copies the matrix in every round."""
  text = str(jax.make_jaxpr(lambda *rest: measured(ours(block), *rest))(*arguments()))
  assert text.count('optimization_barrier') == barriers


@pytest.mark.parametrize(('total', 'columns'), [(8192, 8192), (8320, 1024)])
def test_logits_that_fit_are_one_block(total, columns):
  arrays = (
    jax.ShapeDtypeStruct((2, 2048, 8), jnp.bfloat16),
    jax.ShapeDtypeStruct((8, total), jnp.bfloat16),
    jax.ShapeDtypeStruct((2, 2048), jnp.int32),
    jax.ShapeDtypeStruct((2, 2048), jnp.float32),
  )
  assert traced(ours(None), *arrays) == 2 * 2048 * columns


def collectives_in_loops(text):
  """Instructions of loops that wait for other devices."""
  module = hlo.parse(text)
  every = [each for c in module.computations.values() for each in c.instructions]
  bodies = [each.called for each in every if each.opcode == 'while']
  return [
    each.opcode
    for name in sum(bodies, ())
    for each in module.computations[name].instructions
    if each.opcode.removesuffix('-start') in collectives.KINDS
  ]


@pytest.mark.parametrize(
  ('sizes', 'columns'),
  [
    ((8, 1, 1, 1), 128),
    ((2, 4, 1, 1), 640),
    ((2, 2, 1, 2), 128),
    ((1, 2, 2, 2), 128),
    ((1, 1, 1, 8), 640),
  ],
)
def test_eight_devices_give_the_numbers_of_one(sizes, columns):
  """Tokens divided over devices too: one has none that is used, in the last case."""
  mesh = mesh_lib.make(mesh_lib.MeshConfig(*sizes))
  names = ('embed', 'vocab')

  def nats(hidden, matrix, targets):
    whole = sharding.gathered(matrix, names, hidden.dtype)
    return ours(columns)(sharding.rows(hidden), whole, targets)

  rows = jax.sharding.NamedSharding(mesh, axes.BATCH_SPEC)
  matrix = jax.sharding.NamedSharding(mesh, axes.spec(names, (E, V), mesh.shape))
  placed = jax.device_put(arguments(), (rows, matrix, rows, rows))
  run = jax.jit(sharding.on(mesh, functools.partial(measured, nats)))
  compiled = run.lower(*placed).compile()
  assert not collectives_in_loops(compiled.as_text())
  found = compiled(*placed)
  assert found[2].sharding.is_equivalent_to(matrix, 2)
  assert_close(found, measured(dense, *arguments()), rtol=2e-6)
