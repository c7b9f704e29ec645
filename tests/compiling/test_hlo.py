"""Reading HLO: our own text in every notation, and text of the real compiler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transfusion_jax.compiling import hlo

TEXT = """HloModule jit_f, is_scheduled=true

%body.1 (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}) parameter(0)
  %x = f32[8,128]{1,0:T(8,128)S(1)} get-tuple-element(%p), index=1
  ROOT %t = (s32[], f32[8,128]) tuple(%x, %x), metadata={op_name="a (b) {c}"}
}

%cond.1 (q: (s32[], f32[8,128])) -> pred[] {
  %n = s32[]{:T(128)} constant(24)
  ROOT %lt = pred[] compare(%n, %n), direction=LT
}

ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %c = s32[] constant(7)
  %w = (s32[], /*index=1*/f32[8,128]) while(%a), condition=%cond.1, body=%body.1
  %f = bf16[4,128]{1,0:T(8,128)(2,1)} fusion(%a, %c), kind=kLoop, calls=%body.1, \
backend_config={"window_config":{"estimated_cycles":"123"}}
  ROOT %r = f32[8,128] add(%a, %a), backend_config={"estimated_cycles":7}
}
"""


def test_instructions_of_every_computation():
  module = hlo.parse(TEXT)
  assert module.entry == 'main'
  assert set(module.computations) == {'body.1', 'cond.1', 'main'}
  loop, fusion, root = module.computations['main'].instructions[2:]
  assert (loop.opcode, loop.operands) == ('while', ('a',))
  assert set(loop.called) == {'cond.1', 'body.1'}
  assert (fusion.opcode, fusion.operands, fusion.called) == (
    'fusion',
    ('a', 'c'),
    ('body.1',),
  )
  assert (fusion.cycles, root.cycles, loop.cycles) == (123, 7, None)
  assert module.computations['cond.1'].instructions[0].literal == '24'
  assert [
    i.literal for i in module.computations['main'].instructions if i.name == 'c'
  ] == ['7']


@pytest.mark.parametrize(
  ('shape', 'expected'),
  [
    ('f32[8,128]{1,0:T(8,128)}', [4096]),
    ('(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}, pred[5])', [12, 4, 5]),
    ('(f8e4m3fn[4], s4[8])', [4, 4]),
    ('token[]', [0]),
  ],
)
def test_sizes(shape, expected):
  assert hlo.sizes(shape) == expected


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('replica_groups={{0,1},{2,3}}, x=1', [[0, 1], [2, 3]]),
    ('replica_groups=[2,2]<=[4], x=1', [[0, 1], [2, 3]]),
    ('replica_groups=[2,2]<=[2,2]T(1,0)', [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
    ("replica_groups=mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
    ('replica_groups={}', None),
    ('channel_id=1', None),
  ],
)
def test_replica_groups(text, expected):
  found = hlo.replica_groups(text)
  if expected is None:
    assert found is None
  else:
    np.testing.assert_array_equal(found, expected)


def test_pairs_of_a_permute():
  found = hlo.pairs('channel_id=1, source_target_pairs={{0,3},{1,0}}, x={1}')
  np.testing.assert_array_equal(found, [[0, 3], [1, 0]])
  assert hlo.pairs('replica_groups={{0,1}}') is None


def test_the_cost_estimate_of_a_kernel():
  call = (
    '  ROOT %k = f32[8] custom-call(%a), custom_call_target="tpu_custom_call", '
    'backend_config={"custom_call_config":{"cost_estimate":'
    '{"flops":"512","transcendentals":"0","bytes_accessed":"64"}}}'
  )
  module = hlo.parse(f'ENTRY %m (a: f32[8]) -> f32[8] {{\n{call}\n}}\n')
  assert module.computations['m'].instructions[0].kernel_cost == (512, 64)


def test_rounds_of_a_loop():
  def rounds(text):
    module = hlo.parse(text)
    return module.rounds(module.computations['main'].instructions[2])

  assert rounds(TEXT) == 24
  assert rounds(TEXT.replace('constant(24)', 'parameter(1)')) is None
  told = 'body=%body.1, backend_config={"known_trip_count":{"n":"5"}}'
  assert rounds(TEXT.replace('body=%body.1', told)) == 5


def test_a_transfer_between_slices():
  runtime = '_xla_host_transfer_handler_name="xla_megascale_runtime"'
  line = (
    '  %s = (f32[8], u32[], token[]) send(%a, %t), channel_id=2, '
    f'frontend_attributes={{{runtime},_xla_host_transfer_rendezvous="all-reduce.2_0"}}'
  )

  def sent(line):
    module = hlo.parse(f'ENTRY %m (a: f32[8]) -> f32[8] {{\n{line}\n}}\n')
    return module.computations['m'].instructions[0]

  assert sent(line).rendezvous == 'all-reduce.2_0'
  assert (sent(line).channel, sent(line).operation) == ('2', 's')
  assert sent(line.replace('megascale', 'other')).rendezvous == ''
  assert sent(line.replace('_xla_host_transfer_rendezvous', 'x')).rendezvous == 's'


@pytest.mark.parametrize(
  ('call', 'expected'),
  [
    ('fusion(%a), kind=kLoop', True),
    ('custom-call(%a), custom_call_target="Sort"', True),
    ('custom-call(%a), custom_call_target="ConcatBitcast"', False),
    ('custom-call(%a), custom_call_target="AsyncCollectiveStart"', False),
    ('copy(%a)', True),
    ('copy-start(%a)', False),
    ('async-done(%a)', False),
    ('bitcast(%a)', False),
  ],
)
def test_what_takes_time_of_its_own(call, expected):
  module = hlo.parse(f'ENTRY %m (a: f32[8]) -> f32[8] {{\n  %k = f32[8] {call}\n}}\n')
  assert module.computations['m'].instructions[0].works is expected


@pytest.mark.usefixtures('optimized')
def test_text_of_the_real_compiler():
  def loop(x):
    return jax.lax.scan(lambda c, _: (jnp.sin(c) * 2.0, None), x, length=5)[0]

  module = hlo.parse(jax.jit(loop).lower(jnp.ones((4, 8))).compile().as_text())
  found = [i for c in module.computations.values() for i in c.instructions]
  assert [i.trips for i in found if i.opcode == 'while'] == [5]
  for each in found:
    assert set(each.called) <= set(module.computations)
    assert all(size >= 0 for size in hlo.sizes(each.shape))


def test_no_entry_is_an_error():
  with pytest.raises(ValueError, match='ENTRY'):
    hlo.parse('HloModule empty')
