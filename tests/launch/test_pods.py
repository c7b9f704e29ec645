"""Names of topologies, as Google's documentation has them."""

import pytest

from launch import pods
from transfusion_jax.compiling import topologies


@pytest.mark.parametrize(
  ('name', 'accelerator_type', 'label', 'hosts', 'chips'),
  [
    ('v4:2x2x1', 'v4-8', 'tpu-v4-podslice', 1, 4),
    ('v4:8x16x16', 'v4-4096', 'tpu-v4-podslice', 512, 4),
    ('v5e:1x1', 'v5litepod-1', 'tpu-v5-lite-podslice', 1, 1),
    ('v5e:4x4', 'v5litepod-16', 'tpu-v5-lite-podslice', 4, 4),
    ('v5e:16x16', 'v5litepod-256', 'tpu-v5-lite-podslice', 64, 4),
    ('v5p:8x8x8', 'v5p-1024', 'tpu-v5p-slice', 128, 4),
    ('v6e:16x16', 'v6e-256', 'tpu-v6e-slice', 64, 4),
  ],
)
def test_names(name, accelerator_type, label, hosts, chips):
  pod = pods.find(name, 2)
  assert pod.accelerator_type == accelerator_type
  assert (pod.family.label, pod.shape) == (label, name.split(':')[1])
  assert (pod.hosts_per_slice, pod.hosts) == (hosts, 2 * hosts)
  assert pod.chips_per_host == chips


def test_every_chip_has_names():
  assert pods.FAMILIES.keys() == topologies.CHIPS.keys()


def test_every_size_has_one_usual_shape():
  for chip in topologies.CHIPS.values():
    if not pods.FAMILIES[chip.name].runtime:
      continue
    usual = []
    for sides in topologies.shapes(chip):
      try:
        usual.append(pods.Pod(topologies.Topology(chip, sides)).accelerator_type)
      except ValueError:
        continue
    assert len(usual) == len(set(usual))
    assert len(usual) == len({*map(_product, topologies.shapes(chip))})


def _product(sides: tuple[int, ...]) -> int:
  product = 1
  for side in sides:
    product *= side
  return product
