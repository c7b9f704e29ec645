"""A file of tensors without PyTorch: what it holds, and what is refused."""

import collections
import io
import pathlib
import pickle
import random
import zipfile

import ml_dtypes
import numpy as np
import pytest

from tests.support import torch_files
from transfusion_jax.core import torch_file

ARRAYS = {
  'kernel': np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32),
  'turned': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
  'half': np.ones(3, np.float16),
  'count': np.array(7),
  'none': np.zeros((0, 4), np.float32),
  'short': np.array([0.5, -2.0], ml_dtypes.bfloat16),
}


@pytest.fixture(params=[False, True], ids=['in a row', 'zipped'])
def file(tmp_path, request) -> pathlib.Path:
  path = tmp_path / 'tensors.pth'
  torch_files.write(path, ARRAYS, zipped=request.param)
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


@pytest.mark.parametrize('zipped', [False, True])
def test_what_a_trainer_saved(tmp_path, zipped):
  """Other things lie beside the tensors; nothing of them is called or imported."""
  path, beside = tmp_path / 'a.ckpt', {'callbacks': {pathlib.PurePosixPath: [print]}}
  beside['hooks'] = [pathlib.PurePosixPath('a'), {1, 2}, random.Random(0)]
  torch_files.write(path, ARRAYS, zipped=zipped, beside=beside)
  some = torch_file.read(path, lambda names: ['half'])
  assert some.keys() == {'half'}
  np.testing.assert_array_equal(some['half'], ARRAYS['half'])
  assert torch_file.read(path).keys() == ARRAYS.keys()


class Runs:
  """Unpickled, it would write a file."""

  def __init__(self, path: pathlib.Path):
    self.path = path

  def __reduce__(self):
    return eval, (f'open({str(self.path)!r}, "w")',)


@pytest.mark.parametrize('zipped', [False, True])
def test_nothing_is_run(tmp_path, zipped):
  target, path = tmp_path / 'written', tmp_path / 'a.ckpt'
  torch_files.write(path, ARRAYS, zipped=zipped, beside={'evil': Runs(target)})
  assert torch_file.read(path).keys() == ARRAYS.keys()
  torch_files.write(path, ARRAYS | {'evil': Runs(target)}, zipped=zipped)
  with pytest.raises(ValueError, match=r'names __builtin__\.eval, which is no tensor'):
    torch_file.read(path)
  assert not target.exists()


def test_attributes_cannot_be_written_onto_our_functions():
  """A pickle may set attributes (BUILD) of what a name stands for."""
  build = b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(N}X\x01\x00\x00\x00aK\x01stb.'
  torch_file._Reader(io.BytesIO(build)).load()
  assert not hasattr(torch_file._tensor, 'a')
  ordered = build.replace(
    b'torch._utils\n_rebuild_tensor_v2', b'collections\nOrderedDict'
  )
  torch_file._Reader(io.BytesIO(ordered)).load()
  assert not hasattr(collections.OrderedDict, 'a')


def test_a_compressed_archive_is_refused(tmp_path):
  with zipfile.ZipFile(tmp_path / 'a.pt', 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('archive/data.pkl', pickle.dumps({'a': bytes(10**6)}))
  with pytest.raises(ValueError, match=r'data\.pkl is compressed'):
    torch_file.read(tmp_path / 'a.pt')


def test_a_flipped_number_in_an_archive_is_found(tmp_path):
  torch_files.write(tmp_path / 'a.pt', ARRAYS, zipped=True)
  whole = (tmp_path / 'a.pt').read_bytes()
  place = whole.index(ARRAYS['kernel'].tobytes())
  changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
  (tmp_path / 'a.pt').write_bytes(changed)
  with pytest.raises(ValueError, match='Bad CRC-32'):
    torch_file.read(tmp_path / 'a.pt')


def test_anything_done_to_a_file_is_one_line(file):
  whole, source, long = file.read_bytes(), random.Random(0), []
  for _ in range(300):
    changed = bytearray(whole)
    for _ in range(source.choice([1, 1, 4])):
      changed[source.randrange(len(whole))] ^= 1 << source.randrange(8)
    file.write_bytes(changed)
    try:
      found = torch_file.read(file)
      assert all(isinstance(each, np.ndarray) for each in found.values())
    except ValueError as error:
      long += [str(error)] * ('\n' in str(error))
  assert not long
