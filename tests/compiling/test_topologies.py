"""Which topologies exist, and what is said of those that do not."""

import math

import pytest

from transfusion_jax.compiling import topologies


@pytest.mark.parametrize(
  ('name', 'devices'),
  [
    ('v5e:16x16', 256),
    ('v5p:8x8x8', 512),
    ('v5p:4x4x12', 192),
    ('v5p:16x20x28', 8960),
    ('v4:2x2x1', 4),
    ('tpu7x:2x2x1', 8),
    ('tpu7x:16x24x24', 18432),
  ],
)
def test_topologies_that_exist(name, devices):
  found = topologies.find(name)
  assert (found.name, found.devices) == (name, devices)
  assert topologies.find(name, 2).devices == 2 * devices


@pytest.mark.parametrize(
  ('name', 'nearest'),
  [
    ('v5e:3x3', 'v5e:2x4'),
    ('v5e:16x32', 'v5e:16x16'),
    ('v5e:4x4x4', 'v5e:8x8'),
    ('v5p:8x8', 'v5p:4x4x4'),
    ('v5p:8x8x7', 'v5p:8x8x8'),
    ('v5p:4x2x2', 'v5p:2x2x4'),
    ('v5p:4x4x16', 'v5p:4x8x8'),
    ('v5p:4x12x16', 'v5p:8x8x12'),
  ],
)
def test_the_nearest_is_named(name, nearest):
  with pytest.raises(ValueError, match=f'the nearest is {nearest}'):
    topologies.find(name)


@pytest.mark.parametrize('name', ['', 'v5p', 'v9:2x2', 'v5e:16', 'v5e:axb'])
def test_what_is_no_topology(name):
  with pytest.raises(ValueError, match='v5e:16x16 or v5p:8x8x8'):
    topologies.find(name)


def test_slices_are_positive():
  with pytest.raises(ValueError, match='at least one slice'):
    topologies.find('v5e:4x4', 0)


def test_the_next_larger():
  assert topologies.larger(topologies.find('v5e:4x4')).name == 'v5e:4x8'
  assert topologies.larger(topologies.find('v5e:4x4'), times=2.1).name == 'v5e:8x8'
  assert topologies.larger(topologies.find('v5e:16x16')) is None
  assert topologies.larger(topologies.find('v5e:8x8'), times=5.0) is None


def test_every_shape_is_within_its_chip():
  for chip in topologies.CHIPS.values():
    shapes = list(topologies.shapes(chip))
    assert len(set(shapes)) == len(shapes)
    largest = max(chip.most, *map(math.prod, chip.more), 0)
    assert max(topologies.Topology(chip, s).devices for s in shapes) <= (
      largest * chip.devices
    )


def test_a_number_of_chips_decides_the_shape():
  for chip in topologies.CHIPS.values():
    sold = list(topologies.shapes(chip))
    assert len({math.prod(sides) for sides in sold}) == len(sold)


def test_of_as_many_chips_the_most_compact_cubes_are_sold():
  sold = list(topologies.shapes(topologies.CHIPS['v5p']))
  assert len(sold) == 96
  assert {(4, 4, 244), (4, 28, 52), (8, 16, 20), (12, 12, 36)} < set(sold)
