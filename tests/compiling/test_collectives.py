"""Collectives of a program: what the text says of their bytes."""

import types

import numpy as np
import pytest

from transfusion_jax.compiling import collectives, hlo, topologies

CHIP = topologies.CHIPS['v5e']
ALL = 'replica_groups={{0,1,2,3,4,5,6,7}}'


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    (f'f32[80] all-gather(%a), {ALL}', 320),
    (f'(f32[10], f32[80]) all-gather-start(%a), {ALL}', 320),
    (f'((f32[10], f32[20]), (f32[80], f32[160])) all-gather-start(%a, %b), {ALL}', 960),
    (f'f32[100] all-reduce-start(%a), {ALL}', 400),
    (f'(f32[100], f32[50]) all-reduce-start(%a, %b), {ALL}', 600),
    (f'f32[10] reduce-scatter(%a), {ALL}', 320),
    (
      '(f32[10], f32[10]) collective-permute-start(%a), source_target_pairs={{0,1}}',
      40,
    ),
  ],
)
def test_bytes_of_the_whole_array(text, expected):
  """What is taken and what is made stand side by side where something starts."""
  module = hlo.parse(f'ENTRY %m (a: f32[8]) -> f32[8] {{\n  ROOT %c = {text}\n}}\n')
  (core,) = module.computations['m'].instructions
  mesh = types.SimpleNamespace(devices=np.arange(8), axis_names=('fsdp',))
  found = collectives.describe(core, mesh, CHIP, overlaps=True)
  assert found.bytes == expected
  assert found.axes == ('fsdp',)
