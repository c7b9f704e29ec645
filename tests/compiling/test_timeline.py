"""Seconds and collectives of programs small enough to be added up by hand."""

import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from transfusion_jax.compiling import hlo, timeline, topologies
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


def read(text, **changes):
  devices = np.array([types.SimpleNamespace() for _ in range(8)]).reshape(2, 4)
  mesh = types.SimpleNamespace(devices=devices, axis_names=('data', 'fsdp'))
  reader = timeline.Reader(hlo.parse(text), mesh, CHIP, **changes)
  return reader.estimate()


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


def test_a_loop_that_does_not_say_how_long_it_is():
  silent = TEXT.replace('constant(3)', 'parameter(1)')
  assert read(silent, trips=5).computing == pytest.approx((5000 + 5070) * 1e-9)
  told = TEXT.replace('body=%body', 'body=%body, x={"known_trip_count":{"n":"7"}}')
  assert read(told).computing == pytest.approx((7000 + 5070) * 1e-9)


def test_a_kernel_with_an_estimate_takes_time():
  call = 'custom_call_target="tpu_custom_call"'
  cost = f'{call}, backend_config={{"cost_estimate":{{"flops":"1000000"}}}}'
  found = read(TEXT.replace(call, cost))
  assert found.unknown == 0
  expected = 1e6 / (CHIP.peak * CHIP.kernel_share)
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
