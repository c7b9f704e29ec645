"""Meshes over eight devices."""

import dataclasses

import jax
import pytest
from jax.sharding import AxisType

from transfusion_jax.core import axes
from transfusion_jax.training import mesh


@dataclasses.dataclass(frozen=True)
class Device:
  """What a mesh asks of one."""

  id: int
  slice_index: int
  platform: str = 'cpu'
  device_kind: str = 'cpu'
  process_index: int = 0


@pytest.mark.parametrize(
  ('config', 'expected'),
  [
    ((-1, 1, 1, 1), (1, 8, 1, 1, 1)),
    ((2, -1, 1, 2), (1, 2, 2, 1, 2)),
    ((1, 2, 2, 2), (1, 1, 2, 2, 2)),
    ((8, 1, 1, -1), (1, 8, 1, 1, 1)),
  ],
)
def test_shapes(config, expected):
  assert mesh.shape(mesh.MeshConfig(*config), 8) == expected
  made = mesh.make(mesh.MeshConfig(*config))
  assert tuple(made.shape.values()) == expected
  assert made.axis_names == axes.MESH_AXES
  assert set(made.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(
  'config',
  [(3, 1, 1, 1), (-1, 3, 1, 1), (2, 2, 1, 1), (16, 1, 1, 1), (-1, 16, 1, 1)],
)
def test_axes_that_do_not_multiply_to_the_devices_are_an_error(config):
  with pytest.raises(ValueError, match='a mesh of 8 devices in all'):
    mesh.shape(mesh.MeshConfig(*config), 8)


@pytest.mark.parametrize('config', [(-1, -1, 1, 1), (0, 1, 1, 8), (-2, 1, 1, 1)])
def test_nonsense_axes_are_an_error(config):
  with pytest.raises(ValueError, match='positive mesh axes, at most one of them -1'):
    mesh.shape(mesh.MeshConfig(*config), 8)


def test_a_mesh_of_one_device():
  assert mesh.single().size == 1


def test_slices_are_an_axis_of_their_own():
  config = mesh.MeshConfig(data=1, fsdp=-1, sequence=1, tensor=2)
  assert mesh.shape(config, 16, slices=2) == (2, 1, 4, 1, 2)
  with pytest.raises(ValueError, match='a mesh of 8 devices in all'):
    mesh.shape(mesh.MeshConfig(data=16, fsdp=1, sequence=1, tensor=1), 16, slices=2)


def test_only_the_axis_of_slices_goes_between_them():
  devices = [Device(number, slice_index=number // 4) for number in range(8)]
  made = mesh.make(mesh.MeshConfig(data=2, fsdp=-1, sequence=1, tensor=1), devices)
  assert tuple(made.shape.values()) == (2, 2, 2, 1, 1)
  assert mesh.slices(devices) == 2
  for number, part in enumerate(made.devices):
    assert {device.slice_index for device in part.flat} == {number}


def test_half_an_invitation_is_an_error(monkeypatch):
  monkeypatch.setenv('JAX_NUM_PROCESSES', '2')
  with pytest.raises(ValueError, match='expected all of JAX_COORDINATOR_ADDRESS'):
    mesh.join(False)


def test_one_process_is_alone():
  mesh.join(False)
  assert not jax.distributed.is_initialized()
