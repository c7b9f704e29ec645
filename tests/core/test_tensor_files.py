"""Files of tensors: what is read of them, and what is said of broken ones."""

import json
import random
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from tests.support import torch_files
from transfusion_jax.core import tensor_files

ARRAYS = {
  'a.weight': np.arange(6, dtype=np.float32).reshape(2, 3),
  'a.bias': np.ones(3, np.float16),
  'step': np.array(7),
  'none': np.zeros((0, 4), np.float32),
}


def header(entries, data: bytes = b'') -> bytes:
  """A safetensors file of this header."""
  text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
  return struct.pack('<Q', len(text)) + text + data


def entry(kind: str, shape, end: int) -> dict:
  return {'x': {'dtype': kind, 'shape': shape, 'data_offsets': [0, end]}}


def check_refused(path, message: str) -> None:
  with pytest.raises(ValueError, match=message) as error:
    tensor_files.read(path)
  assert '\n' not in str(error.value)
  assert path.name in str(error.value) or path.parent.name in str(error.value)


def test_arrays_come_back_and_only_those_that_are_wanted(tmp_path):
  safetensors_numpy.save_file(ARRAYS, tmp_path / 'a.safetensors', {'format': 'pt'})
  found = tensor_files.read(tmp_path / 'a.safetensors')
  assert found.keys() == ARRAYS.keys()
  for name, wanted in ARRAYS.items():
    assert (found[name].dtype, found[name].shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(found[name], wanted)
  some = tensor_files.read(tmp_path / 'a.safetensors', lambda names: ['step'])
  assert some == {'step': np.array(7)}


@pytest.mark.parametrize(
  ('kind', 'dtype'),
  [
    ('BF16', ml_dtypes.bfloat16),
    ('F8_E4M3', ml_dtypes.float8_e4m3fn),
    ('F8_E5M2', ml_dtypes.float8_e5m2),
  ],
)
def test_numbers_that_numpy_does_not_have(tmp_path, kind, dtype):
  wanted = np.array([[0.5, -2.0], [1.0, 0.0]], dtype)
  path = tmp_path / 'a.safetensors'
  path.write_bytes(header(entry(kind, [2, 2], wanted.nbytes), wanted.tobytes()))
  found = tensor_files.read(path)['x']
  assert found.dtype == dtype
  np.testing.assert_array_equal(found.astype(np.float32), wanted.astype(np.float32))


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'header too small'),
    (b'\xff' * 8 + b'{}', 'header too large'),
    (header(entry('F32', [2], 8), bytes(4)), 'not fully covered'),
    (header(entry('F32', [2], 4), bytes(4)), 'expected a .safetensors file'),
    (header(entry('F32', [2**62, 4], 8), bytes(8)), 'overflow'),
    (header(entry('F99', [1], 4), bytes(4)), 'unknown variant'),
    (header(b'{"x":' * 100_000), 'recursion limit'),
    (header(b'[]'), 'expected a .safetensors file'),
    (header(b'5'), 'expected a .safetensors file'),
    (header(entry('F4', [4], 2), bytes(2)), 'found x of type F4; convert it'),
    (b'version https://git-lfs.github.com/spec/v1\noid 5', 'git lfs pull'),
  ],
)
def test_broken_safetensors(tmp_path, content, message):
  path = tmp_path / 'a.safetensors'
  path.write_bytes(content)
  check_refused(path, message)


def test_anything_done_to_a_file_is_one_line(tmp_path):
  """Flips and cuts of the header: the arrays come back, or a ValueError."""
  path = tmp_path / 'a.safetensors'
  safetensors_numpy.save_file(ARRAYS, path)
  whole, source = path.read_bytes(), random.Random(0)
  length = 8 + int.from_bytes(whole[:8], 'little')
  outcomes = set()
  for number in range(400):
    changed = bytearray(whole)
    changed[source.randrange(length)] ^= 1 << source.randrange(8)
    path.write_bytes(changed if number % 4 else whole[: source.randrange(len(whole))])
    try:
      found = tensor_files.read(path)
      outcomes.add(all(isinstance(each, np.ndarray) for each in found.values()))
    except ValueError as error:
      outcomes.add('refused' if '\n' not in str(error) else str(error))
  assert outcomes == {True, 'refused'}


@pytest.mark.parametrize('name', ['a.txt', 'a', 'a.gguf'])
def test_other_endings(tmp_path, name):
  (tmp_path / name).write_bytes(b'any')
  check_refused(tmp_path / name, 'expected weights in .safetensors, .ckpt')


def test_what_is_no_file(tmp_path):
  (tmp_path / 'a.safetensors').mkdir()
  for name in ('a.safetensors', 'b.safetensors', 'b.ckpt', 'c.json'):
    check_refused(tmp_path / name, 'found no')


@pytest.fixture
def index(tmp_path):
  """Two shards, one of each format, and their index."""
  names = sorted(ARRAYS)
  shards = {'one.safetensors': names[:2], 'two.bin': names[2:]}
  safetensors_numpy.save_file(
    {name: ARRAYS[name] for name in names[:2]}, tmp_path / 'one.safetensors'
  )
  torch_files.write(
    tmp_path / 'two.bin', {name: ARRAYS[name] for name in names[2:]}, zipped=True
  )
  path = tmp_path / 'x.safetensors.index.json'
  places = {name: shard for shard, each in shards.items() for name in each}
  path.write_text('\ufeff' + json.dumps({'weight_map': places}), 'utf-8')
  return path


def test_shards(index):
  found = tensor_files.read(index)
  assert found.keys() == ARRAYS.keys()
  for name, wanted in ARRAYS.items():
    np.testing.assert_array_equal(found[name], wanted)
  assert tensor_files.read(index, lambda names: ['step']).keys() == {'step'}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'step': '../two.bin'}, "found '../two.bin'"),
    ({'step': '/etc/passwd'}, "found '/etc/passwd'"),
    ({'step': '../../etc/passwd'}, "found '../../etc/passwd'"),
    ({'step': '..'}, r"found '\.\.'"),
    ({'step': ''}, "found ''"),
    ({'step': 'x.safetensors.index.json'}, r"found 'x\.safetensors\.index\.json'"),
    ({'step': 'gone.bin'}, r'all 3 shards .* found no gone\.bin; get them'),
    ({'step': 'one.safetensors'}, 'what its index says, found no step'),
    ({'step': 3}, 'expected weight_map'),
    ({'new': 'two.bin'}, 'what its index says, found no new'),
  ],
)
def test_an_index_that_is_wrong(index, change, message):
  value = json.loads(index.read_text('utf-8-sig'))
  value['weight_map'] |= change
  index.write_text(json.dumps(value))
  check_refused(index, message)


def test_a_tensor_in_two_shards(index):
  safetensors_numpy.save_file(ARRAYS, index.parent / 'one.safetensors')
  check_refused(index, 'found also none, step')


@pytest.mark.parametrize(
  'content',
  [b'', b'[]', b'5', b'{}', b'{"weight_map": []}', b'{"weight_map": {}}', b'[' * 9999],
)
def test_no_index(index, content):
  index.write_bytes(content)
  check_refused(index, 'expected')
