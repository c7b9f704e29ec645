"""The decoder: what depends on what, and that choices of speed change no numbers."""

import dataclasses
import math

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.models import module, transformer
from transfusion_jax.ops import span as span_lib


def inputs(row):
  """Random vectors at the positions of one row of several documents and pictures."""
  batch = tiny.rows_of(tiny.mixed_batch(), slice(row, row + 1))
  return jax.random.normal(jax.random.key(row), (1, tiny.LENGTH, 16)), batch


@jax.jit
def run(decoder, x, position, span):
  return decoder(x, position, span)


@jax.jit
def slopes(decoder, x, position, span):
  """How strongly output i depends on input j, [i, j]."""
  outputs = lambda x: jnp.sum(jnp.sin(2.0 * decoder(x, position, span)[0]), axis=-1)  # noqa: E731
  return jnp.abs(jax.jacrev(outputs)(x)[:, 0]).sum(-1)


@pytest.mark.parametrize('row', [0, 1, 2])
def test_gradient_is_non_zero_iff_the_mask_says_so(row):
  x, batch = inputs(row)
  found = np.asarray(slopes(tiny.model().transformer, x, batch.position, batch.span))
  seen = np.asarray(span_lib.visible(batch.span, tiny.LENGTH))[0]
  # The residual stream carries a position, padding too, to itself.
  np.testing.assert_array_equal(found > 0, seen | np.eye(tiny.LENGTH, dtype=bool))
  assert np.isfinite(found).all()


def test_only_differences_of_positions_matter():
  x, batch = inputs(0)
  decoder = tiny.model().transformer
  found = run(decoder, x, batch.position, batch.span)
  moved = run(decoder, x, batch.position + 7, batch.span)
  np.testing.assert_allclose(found, moved, atol=2e-5)
  mirrored = run(decoder, x, 40 - batch.position, batch.span)
  assert not np.allclose(found, mirrored, atol=1e-2)


@pytest.mark.parametrize(
  ('backend', 'outputs'),
  [
    ('xla_dense', 40 * 8),  # positions, head_dim
    ('xla_chunked', 40 * 8),
    ('xla_blocks', 128 * (8 + 1)),  # a block of positions, and their sums
  ],
)
def test_attention_outputs_are_saved_once(backend, outputs, capsys):
  rows = tiny.mixed_batch()

  def kept(remat):
    model = tiny.model(attention=backend, remat=remat)
    forward = lambda m: m(rows, rows.images, tiny.levels(rows)).hidden.sum()  # noqa: E731
    jax.ad_checkpoint.print_saved_residuals(forward, model)
    lines = capsys.readouterr().out.splitlines()
    shapes = [line[line.index('[') + 1 : line.index(']')] for line in lines]
    return sum(
      math.prod(int(n) for n in shape.split(',') if n)
      for shape, line in zip(shapes, lines, strict=True)
      if 'output of scan' in line
    )

  # Of two layers, eight rows, two heads.
  assert kept('save_attention') - kept('full') == 2 * 8 * 2 * outputs


@pytest.mark.parametrize('changes', [{'unroll': 2}, {'remat': 'full'}])
def test_unrolling_and_remat_change_no_output(changes):
  x, batch = inputs(0)
  found = run(tiny.model(**changes).transformer, x, batch.position, batch.span)
  expected = run(tiny.model().transformer, x, batch.position, batch.span)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_bfloat16_is_close_to_float32():
  x, batch = inputs(0)
  low = run(tiny.model(dtype='bfloat16').transformer, x, batch.position, batch.span)
  assert low.dtype == jnp.bfloat16
  high = np.asarray(run(tiny.model().transformer, x, batch.position, batch.span))
  error = np.abs(np.asarray(low, np.float32) - high)
  assert error.mean() < 0.03 * np.abs(high).mean()


def test_options_have_parameters_of_their_own():
  shapes = tiny.blueprint(qk_norm=False, kv_heads=2).shapes
  attention = shapes['transformer']['blocks']['attention']
  assert 'query_norm' not in attention
  assert attention['key'].shape == (2, 16, 2, 8)
  assert 'query_norm' in tiny.blueprint().shapes['transformer']['blocks']['attention']


def test_residual_branches_start_smaller_in_deeper_models():
  deviations = {}
  for depth in (2, 8):
    config = tiny.model(depth=depth).transformer.config
    made = transformer.SwiGLU(module.Rngs(0), dataclasses.replace(config, mlp=64))
    deviations[depth] = float(jnp.std(made.down[...]))
  np.testing.assert_allclose(deviations[2] / deviations[8], 2.0, rtol=0.1)


def test_the_numbers_of_one_plain_layer():
  """A Llama block written out in NumPy, position by position."""
  config = tiny.model(depth=1, qk_norm=False).transformer.config
  assert isinstance(config, transformer.TransformerConfig)
  decoder = tiny.model(depth=1, qk_norm=False).transformer
  x, batch = inputs(1)
  found = run(decoder, x, batch.position, batch.span)
  p = jax.tree.map(
    lambda leaf: np.asarray(leaf, np.float64),
    tiny.params(depth=1, qk_norm=False)['transformer'],
  )
  block = jax.tree.map(lambda leaf: leaf[0], p['blocks'])

  def norm(x, gain):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * gain

  def turn(x):  # [t, h, d]
    t = np.asarray(batch.position)[0][:, None, None]
    angle = t * 100.0 ** (-np.arange(0, 8, 2) / 8)
    a, b = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

  y = np.asarray(x, np.float64)[0]
  z = norm(y, block['attention_norm']['gain'])
  q, k, v = (
    np.einsum('te,ehd->thd', z, block['attention'][n])
    for n in ('query', 'key', 'value')
  )
  q, k = turn(q), turn(k)
  o = np.zeros_like(q)
  for i in range(tiny.LENGTH):
    seen = slice(int(batch.start[0, i]), int(batch.end[0, i]))
    if seen.start == seen.stop:
      continue
    for h in range(2):
      weights = np.exp(k[seen, 0] @ q[i, h] / np.sqrt(8))
      o[i, h] = weights @ v[seen, 0] / weights.sum()
  y = y + np.einsum('thd,hde->te', o, block['attention']['out'])
  z = norm(y, block['mlp_norm']['gain'])
  gate = z @ block['mlp']['gate']
  y = y + (gate / (1 + np.exp(-gate)) * (z @ block['mlp']['up'])) @ block['mlp']['down']
  np.testing.assert_allclose(found[0], norm(y, p['norm']['gain']), atol=1e-4)
