"""Seconds and collectives of programs small enough to be added up by hand."""

import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from transfusion_jax.compiling import hlo, program, summary, timeline, topologies
from transfusion_jax.training import mesh as mesh_lib

CHIP = dataclasses.replace(topologies.CHIPS['v5e'], clock=1e9, link_rate=1e9)
GROUPS = "replica_groups=mesh['a'=2,'b'=4] {'b'}"


def cycles(count):
  return f'backend_config={{"estimated_cycles":"{count}"}}'


def computing(name, count):
  """A computation of that many cycles."""
  return f"""%{name} (p: f32[256]) -> f32[256] {{
  %p = f32[256] parameter(0)
  ROOT %one = f32[256] fusion(%p), kind=kLoop, {cycles(count)}
}}
"""


def gathering(name, part):
  """A fusion that starts, goes on with or ends one asynchronous all-gather."""
  return f"""%{name} (p: f32[256]) -> f32[1024] {{
  %p = f32[256] parameter(0)
  %g = f32[1024] all-gather(%p), channel_id=9, {GROUPS}
  ROOT %k = f32[1024] custom-call(%g), custom_call_target="AsyncCollective{part}"
}}
"""


TEXT = f"""HloModule jit_f

%body (p: f32[256]) -> f32[256] {{
  %p = f32[256] parameter(0)
  %s = (f32[256], f32[1024]) all-gather-start(%p), channel_id=1, {GROUPS}
  %one = f32[256] fusion(%p), kind=kLoop, {cycles(1000)}
  %d = f32[1024] all-gather-done(%s)
  %r = f32[256] all-reduce(%one), channel_id=2, replica_groups={{{{0,4}},{{1,5}}}}
}}

%cond (p: f32[256]) -> pred[] {{
  %n = s32[] constant(3)
  ROOT %lt = pred[] compare(%n, %n), direction=LT
}}

{computing('cheap', 10)}
{computing('dear', 50)}
{gathering('started', 'Start')}
{gathering('async_collective_fusion', 'Update')}
{gathering('ended', 'Done')}
%scattered (p: f32[1024]) -> f32[256] {{
  %p = f32[1024] parameter(0)
  ROOT %g = f32[256] reduce-scatter(%p), channel_id=4, {GROUPS}
}}

%sliced (p: f32[1024]) -> f32[256] {{
  %p = f32[1024] parameter(0)
  %g = f32[1024] all-reduce(%p), channel_id=5, {GROUPS}
  ROOT %s = f32[256] dynamic-slice(%g, %p), dynamic_slice_sizes={{256}}
}}

ENTRY %main (a: f32[256]) -> f32[256] {{
  %a = f32[256] parameter(0)
  %w = f32[256] while(%a), condition=%cond, body=%body
  %i = f32[256] conditional(%a), branch_computations={{%cheap, %dear}}
  %b = f32[1024] fusion(%a), kind=kCustom, calls=%started
  %m = f32[1024] fusion(%a), calls=%async_collective_fusion, {cycles(5000)}
  %e = f32[1024] fusion(%b), kind=kCustom, calls=%ended
  %f = f32[256] fusion(%e), kind=kCustom, calls=%scattered, {cycles(20)}
  %h = f32[256] fusion(%e), kind=kCustom, calls=%sliced
  ROOT %k = f32[256] custom-call(%a), custom_call_target="tpu_custom_call"
}}
"""


MEGASCALE = '_xla_host_transfer_handler_name="xla_megascale_runtime"'
ACROSS = (
  'is_host_transfer=true, frontend_attributes={'
  f'{MEGASCALE},_xla_host_transfer_rendezvous="all-reduce.2_0",'
  '_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}",'
  '_xla_megascale_transfer_type="ALL_REDUCE"}'
)
ARRAY = 'bf16[1024,8,128]{2,1,0:T(8,128)(2,1)}'
BETWEEN_SLICES = f"""HloModule jit_f, is_scheduled=true

{computing('product', 100000)}
ENTRY %main (a: bf16[1024,8,128]) -> bf16[1024,8,128] {{
  %a = {ARRAY} parameter(0)
  %after-all = token[] after-all(), \
frontend_attributes={{MegascaleRendezvousKeyName="all-reduce.2_0"}}
  %send = ({ARRAY}, u32[], token[]) send(%a, %after-all), channel_id=2, {ACROSS}
  %recv = ({ARRAY}, u32[], token[]) recv(%after-all), channel_id=1, {ACROSS}
  %fusion = f32[256] fusion(%a), calls=%product, {cycles(100000)}
  %send-done = token[] send-done(%send), channel_id=2, is_host_transfer=true, \
frontend_attributes={{{MEGASCALE}}}
  %recv-done = ({ARRAY}, token[]) recv-done(%recv), channel_id=1, \
is_host_transfer=true, frontend_attributes={{{MEGASCALE}}}
  ROOT %get = {ARRAY} get-tuple-element(%recv-done), index=0
}}
"""


def read(text, *, chip=CHIP, slices=1, **changes):
  """Eight devices; those of several slices have `slice` as another, outermost axis."""
  made = [types.SimpleNamespace(slice_index=i * slices // 8) for i in range(8)]
  shape = (slices, 2, 4 // slices)
  mesh = types.SimpleNamespace(
    devices=np.array(made).reshape(shape), axis_names=('slice', 'data', 'fsdp')
  )
  return timeline.Reader(hlo.parse(text), mesh, chip, **changes).estimate()


def test_a_program_added_up_by_hand():
  found = read(TEXT)
  # 3 rounds of 1000; the dearer branch; what a gather passes through; a scatter's own.
  assert math.isclose(found.computing, (3 * 1000 + 50 + 5000 + 20) * 1e-9)
  # 4096 B over 4 devices move 3072 B over two ways: 1536 ns, of which 1000 are covered;
  # the one in the entry is covered altogether.
  assert math.isclose(found.waiting, 3 * 536e-9)
  # All-reduce of 1024 B over 2: 1024 B; reduce-scatter of 4096 B over 4: 3072 B, twice.
  assert math.isclose(found.synchronous, (3 * 512 + 2 * 1536) * 1e-9)
  assert found.unknown == 1
  assert found.products == found.kernels == 0
  assert found.seconds == found.computing + found.waiting + found.synchronous


def test_collectives_are_counted_by_kind_and_axis():
  found = timeline.totals(read(TEXT))
  counted = {
    (each['kind'], each['bytes'], *each['axes'], each['overlaps']): each['count']
    for each in found
  }
  assert counted == {
    ('all-gather', 4096, 'fsdp', True): 4,
    ('all-reduce', 1024, 'data', False): 3,
    ('reduce-scatter', 4096, 'fsdp', False): 2,
  }
  assert [each['seconds'] for each in found] == sorted(
    (each['seconds'] for each in found), reverse=True
  )


def test_seconds_waited_are_all_there_is_to_communication():
  found = read(TEXT)
  waited = {
    (each['kind'], each['overlaps']): each['waited_seconds']
    for each in timeline.totals(found)
  }
  assert waited == pytest.approx(
    {
      ('all-gather', True): 3 * 536e-9,
      ('all-reduce', False): 3 * 512e-9,
      ('reduce-scatter', False): 2 * 1536e-9,
    }
  )
  assert sum(waited.values()) == pytest.approx(found.synchronous + found.waiting)


@pytest.mark.parametrize('devices', [1, 2])
def test_an_all_reduce_between_slices(devices):
  chip = dataclasses.replace(CHIP, devices=devices)
  found = read(BETWEEN_SLICES, slices=2, chip=chip)
  (only,) = timeline.totals(found)
  # 1024 x 8 x 128 of two bytes: of two slices each sends half of them twice, at 6.25
  # GB/s for all devices of a chip; 100 us are covered.
  seconds = devices * 2097152 / 6.25e9
  assert only == {
    'kind': 'all-reduce',
    'bytes': 2097152,
    'axes': ['slice'],
    'count': 1,
    'overlaps': True,
    'seconds': pytest.approx(seconds),
    'waited_seconds': pytest.approx(seconds - 100e-6),
    'operation': 'all-reduce.2_0',
  }
  assert found.seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
  ('kind', 'expected', 'whole', 'moved'),
  [
    ('ALL_GATHER', 'all-gather', 4 * 2097152, 3 * 2097152),
    ('ALL_TO_ALL', 'all-to-all', 2097152, 3 * 2097152 / 4),
    ('ONE_TO_ONE', 'collective-permute', 2097152, 2097152),
  ],
)
def test_other_transfers_between_slices(kind, expected, whole, moved):
  text = BETWEEN_SLICES.replace('_xla_megascale_reduce_operation="SUM",', '')
  (only,) = timeline.totals(read(text.replace('ALL_REDUCE', kind), slices=4))
  assert (only['kind'], only['bytes'], only['axes']) == (expected, whole, ['slice'])
  assert only['seconds'] == pytest.approx(moved / 6.25e9)


def test_transfers_to_the_host_are_no_collectives():
  text = BETWEEN_SLICES.replace('xla_megascale_runtime', 'xla_debugger')
  found = read(text, slices=2)
  assert not found.collectives
  assert found.seconds == pytest.approx(100e-6)


def test_large_instructions_without_cycles_are_counted():
  large = 'bf16[1024,512]'
  inner = f"""  %one = f32[256] fusion(%p), kind=kLoop, {cycles(1000)}
  %x1 = {large} fusion(%p), kind=kLoop, calls=%cheap
  %x2 = f32[8,1024,512] dynamic-update-slice(%p, %x1, %p)
  %x3 = {large} copy(%x1), {cycles(5)}
  %x4 = bf16[1023,512] copy(%x1)
  %x5 = {large} bitcast(%x1)
  %x6 = ({large}, {large}, u32[]) copy-start(%x1)
  %x7 = {large} copy-done(%x6)
  %x8 = {large} custom-call(), custom_call_target="AllocateBuffer"
  %x9 = {large} custom-call(%x1), custom_call_target="tpu_custom_call"""
  line = f'  %one = f32[256] fusion(%p), kind=kLoop, {cycles(1000)}\n  %d'
  assert line in TEXT
  found = read(TEXT.replace(line, inner + '"\n  %d'))
  assert (found.untimed, found.untimed_bytes) == (3 * 2, 3 * 2 * 2**20)
  assert read(TEXT).untimed == read(TEXT).untimed_bytes == 0
  assert found.others == pytest.approx(read(TEXT).others + 15e-9)


def test_a_loop_that_does_not_say_how_long_it_is():
  silent = TEXT.replace('constant(3)', 'parameter(1)')
  found = read(silent, trips=5)
  assert found.computing == pytest.approx((5000 + 5070) * 1e-9)
  assert (found.unknown_loops, read(TEXT).unknown_loops) == (1, 0)
  told = TEXT.replace('body=%body', 'body=%body, x={"known_trip_count":{"n":"7"}}')
  assert read(told).computing == pytest.approx((7000 + 5070) * 1e-9)


@pytest.mark.parametrize(
  ('flops', 'moved', 'expected'),
  [
    (10**9, 10**3, 1e9 / (CHIP.peak * CHIP.kernel_share)),
    (10**3, 10**6, 1e6 / CHIP.loop_rate),
  ],
)
def test_a_kernel_takes_as_long_as_it_computes_or_moves(flops, moved, expected):
  call = 'custom_call_target="tpu_custom_call"'
  cost = (
    f'{call}, backend_config={{"cost_estimate":{{"flops":"{flops}",'
    f'"bytes_accessed":"{moved}"}}}}'
  )
  found = read(TEXT.replace(call, cost))
  assert found.unknown == 0
  assert found.kernels == pytest.approx(expected)
  assert found.computing - read(TEXT).computing == pytest.approx(expected)


@pytest.mark.parametrize('product', ['dot', 'convolution'])
def test_products_are_told_from_the_rest_by_themselves_or_fused(product):
  found = read(f"""HloModule jit_f

%fused (p: f32[256]) -> f32[256] {{
  %p = f32[256] parameter(0)
  %c = f32[256] {product}(%p, %p)
  ROOT %n = f32[256] negate(%c)
}}

{computing('plain', 10)}
ENTRY %main (a: f32[256]) -> f32[256] {{
  %a = f32[256] parameter(0)
  %f = f32[256] fusion(%a), kind=kOutput, calls=%fused, {cycles(100)}
  %d = f32[256] {product}(%f, %f), {cycles(20)}
  ROOT %g = f32[256] fusion(%d), kind=kLoop, calls=%plain, {cycles(3)}
}}
""")
  assert (found.products, found.others) == pytest.approx((120e-9, 3e-9))


def test_collectives_of_the_real_compiler():
  mesh = mesh_lib.make(mesh_lib.MeshConfig(2, 4, 1, 1))
  x = jax.ShapeDtypeStruct(
    (8, 64), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec('data', 'fsdp'))
  )
  y = jax.ShapeDtypeStruct(
    (64, 32), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec('fsdp'))
  )
  placed = NamedSharding(mesh, PartitionSpec('data'))
  text = jax.jit(jnp.matmul, out_shardings=placed).lower(x, y).compile().as_text()
  reader = timeline.Reader(hlo.parse(text), mesh, CHIP)
  found = timeline.totals(reader.estimate())
  assert [(each['kind'], each['axes']) for each in found] == [('all-reduce', ['fsdp'])]
  assert found[0]['bytes'] == 4 * 32 * 4


def test_what_the_estimate_leaves_out_is_said():
  silent = TEXT.replace('constant(3)', 'parameter(1)')
  mesh = mesh_lib.make(mesh_lib.MeshConfig(2, 4, 1, 1))
  copied = '  %y = bf16[1024,1024] copy(%a)\n  %w ='
  made = program.Program(1.0, 0, 0, 0, 0, 1.0, silent.replace('  %w =', copied))
  result = summary.measure(
    made,
    topology=topologies.find('v5e:2x4'),
    mesh=mesh,
    state=types.SimpleNamespace(params={}, ema={}, opt_state=()),
    batch={},
    trips=7,
    model_flops=1.0,
  )
  named = ('unknown_kernels', 'unknown_loops', 'untimed', 'untimed_bytes')
  assert [result[name] for name in named] == [1, 1, 1, 2**21]
  told = '\n'.join(summary.lines(result))
  for words in ('1 loops do not say', 'as 7 rounds', '1 large instructions', 'exposed'):
    assert words in told
