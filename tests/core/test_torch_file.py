"""A file of tensors without PyTorch: what it holds, and what is refused."""

import pathlib

import numpy as np
import pytest

from tests import torch_files
from transfusion_jax.core import torch_file

ARRAYS = {
  'kernel': np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32),
  'turned': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
  'half': np.ones(3, np.float16),
  'count': np.array(7),
}


@pytest.fixture
def file(tmp_path) -> pathlib.Path:
  path = tmp_path / 'tensors.pth'
  torch_files.write(path, ARRAYS)
  return path


def test_arrays_come_back(file):
  found = torch_file.read(file)
  assert found.keys() == ARRAYS.keys()
  for name, wanted in ARRAYS.items():
    assert found[name].dtype == wanted.dtype
    np.testing.assert_array_equal(found[name], wanted)


def test_a_file_that_is_cut_off(file):
  whole = file.read_bytes()
  for kept in (len(whole) - 1, len(whole) // 2, 3):
    file.write_bytes(whole[:kept])
    with pytest.raises(ValueError, match='expected a dictionary of tensors'):
      torch_file.read(file)


@pytest.mark.parametrize(
  ('value', 'message'),
  [
    (pathlib.PurePosixPath('a'), 'names pathlib.PurePosixPath'),
    (print, 'names __builtin__.print'),
    (1, 'more than tensors'),
    (np.ones(2, np.complex64), 'names torch.ComplexFloatStorage'),
  ],
)
def test_anything_but_tensors_is_refused(tmp_path, value, message):
  torch_files.write(tmp_path / 'a.pth', ARRAYS | {'other': value})
  with pytest.raises(ValueError, match=message):
    torch_file.read(tmp_path / 'a.pth')


def test_another_file(tmp_path):
  (tmp_path / 'a.pth').write_bytes(b'PK\x03\x04 and so on')
  with pytest.raises(ValueError, match='that torch.save wrote, found'):
    torch_file.read(tmp_path / 'a.pth')


def test_a_tensor_beyond_its_storage_is_refused():
  storage = np.zeros(6, np.float32)
  assert torch_file._tensor(storage, 2, (2, 2), (2, 1)).shape == (2, 2)
  for offset, shape, strides in ((3, (2, 2), (2, 1)), (0, (2,), (-1,)), (7, (), ())):
    with pytest.raises(Exception, match='beyond its storage'):
      torch_file._tensor(storage, offset, shape, strides)
