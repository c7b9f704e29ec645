"""The search: which choices are tried, in which order, and how they are ranked."""

import dataclasses

from transfusion_jax.compiling import search, topologies
from transfusion_jax.training import mesh


def test_meshes_follow_the_torus_and_give_every_device_a_row():
  topology = topologies.find('v5e:4x4')
  assert shapes(topology, rows=16, heads=4) == [
    (16, 1, 1, 1),
    (4, 4, 1, 1),
    (1, 16, 1, 1),
    (4, 1, 1, 4),
    (1, 4, 1, 4),
  ]
  # fsdp divides the width
  assert shapes(topology, rows=16, heads=3, width=12) == [(16, 1, 1, 1), (4, 4, 1, 1)]
  # sixteen devices, eight rows, no head to divide
  assert shapes(topology, rows=8, heads=3) == []
  assert shapes(topology, rows=8, heads=3, sequence=2) == [
    (8, 1, 2, 1),
    (2, 4, 2, 1),
    (1, 8, 2, 1),
  ]


def test_meshes_are_those_of_one_slice():
  topology = topologies.find('v5e:2x2', slices=2)
  found = shapes(topology, rows=8, heads=1)
  assert found == [(4, 1, 1, 1), (2, 2, 1, 1), (1, 4, 1, 1)]


def shapes(topology, *, rows, heads, width=64, sequence=1):
  found = search.meshes(
    topology, rows=rows, heads=heads, width=width, sequence=sequence
  )
  return [dataclasses.astuple(each) for each in found]


def attempts(fits):
  tried = []

  def attempt(candidate):
    tried.append(candidate)
    if not fits(candidate):
      return None
    seconds = {'full': 2.0, 'save_attention': 1.0, 'minimal': 3.0}[candidate.remat]
    return {'fits': True, 'step_seconds': seconds, 'peak_bytes': 1}

  return attempt, tried


def test_as_few_micro_batches_as_fit_and_no_policy_beyond_the_first_that_does_not():
  def fits(candidate):
    return candidate.microbatches >= 2 and candidate.remat != 'minimal'

  attempt, tried = attempts(fits)
  found = search.run(
    [mesh.MeshConfig(2, 2, 1, 1)], rows=16, slices=1, attempt=attempt, tries=99
  )
  assert [(each.microbatches, each.remat) for each in tried] == [
    (1, 'full'),
    (2, 'full'),
    (2, 'save_attention'),
    (2, 'minimal'),
  ]
  assert [each.remat for each, _ in found] == ['save_attention', 'full']


def test_tries_are_limited_and_what_does_not_fit_is_not_ranked():
  attempt, tried = attempts(lambda candidate: True)
  one = mesh.MeshConfig(1, 1, 1, 1)
  search.run([one] * 5, rows=4, slices=1, attempt=attempt, tries=4)
  assert len(tried) == 4
  large = {'fits': False, 'step_seconds': 0.1, 'peak_bytes': 1}
  assert search.ranked([(tried[0], large)]) == []
