"""What is written comes back; half a file is never seen; damage is noticed."""

import math
import os
import pathlib
import shutil
import tempfile

import msgpack
import numpy as np
import pytest
from array_record.python import array_record_module

from transfusion_jax.data.sources import array_record

RECORDS = [
  {'text': 'naïve 狐 🦊\0', 'n': -(2**63), 'm': 2**64 - 1, 'half': 0.1, 'on': True},
  {'data': bytes(range(256)), 'empty': b'', 'none': None, 'list': [1, 'a', [b'x', []]]},
  {'deep': {'a': {'b': [{'c': None}]}}, '': '', 'inf': math.inf},
]
KINDS = ['uint8', 'int16', '>i4', 'uint64', 'float16', 'float32', 'float64', 'bool']


def write(prefix, shards, records):
  for shard in range(shards):
    with array_record.Writer(str(prefix), shard, shards) as writer:
      for record in records[shard::shards]:
        writer.write(record)


@pytest.fixture
def corpus(tmp_path):
  records = [{'key': str(n), 'a': np.full((2, n), n)} for n in range(7)]
  write(tmp_path / 'corpus' / 'train', 2, records)
  return tmp_path / 'corpus'


def same(one, two):
  """Equal, and of equal types all through."""
  assert type(one) is type(two)
  if isinstance(one, dict):
    assert list(one) == list(two)
    for name in one:
      same(one[name], two[name])
  elif isinstance(one, list):
    for a, b in zip(one, two, strict=True):
      same(a, b)
  elif isinstance(one, np.ndarray):
    assert one.dtype == two.dtype
    np.testing.assert_array_equal(one, two)
  else:
    assert one == two


def test_every_value_comes_back_as_it_was():
  draw = np.random.default_rng(0)
  arrays = {kind: draw.integers(0, 2, (2, 3, 4)).astype(kind) for kind in KINDS}
  strange = {
    'scalar': np.zeros((), np.float32),
    'none': np.zeros((3, 0), np.int8),
    'transposed': np.arange(6).reshape(2, 3).T,
    'inside': [np.arange(3), {'b': np.ones(1)}],
    'nan': np.asarray([np.nan, np.inf]),
  }
  for record in [*RECORDS, arrays, strange]:
    same(array_record.unpack(array_record.pack(record)), record)


@pytest.mark.parametrize(
  'value',
  [
    np.asarray(['a']), np.asarray([1j]), np.asarray([None]), np.float32(1), np.int64(1),
    (1, 2), {1: 2}, {'a': [{b'b': 1}]}, {1, 2}, object(), 2**64, 'half \ud83e',
    np.asarray([(1, 2)], 'i4,i4'),
  ],
)  # fmt: skip
def test_what_would_not_come_back_is_refused(value):
  with pytest.raises(ValueError, match='expected values that can be stored, found'):
    array_record.pack({'a': value})


def test_deep_values_are_refused():
  value: list = []
  for _ in range(2000):
    value = [value]
  for deep in (value, {'a': value}):
    with pytest.raises(ValueError, match='expected values that can be stored') as told:
      array_record.pack({'deep': deep})
    assert '\n' not in str(told.value)
  with pytest.raises(ValueError, match='a record written by array_record.Writer'):
    array_record.unpack(b'\x91' * 100_000)


def test_records(corpus, check_contract):
  found = array_record.ArrayRecord(str(corpus), '')
  assert [found[n]['key'] for n in range(7)] == list('0246135')
  assert sorted(os.listdir(corpus)) == [
    'train-00000-of-00002.array_record',
    'train-00001-of-00002.array_record',
  ]
  assert found.name(4) == f'{corpus}/train-00001-of-00002.array_record: record 0'
  check_contract(found, array_record.ArrayRecord(f'{corpus}/train-*', ''))


def test_in_a_bucket(corpus, bucket, tmp_path):
  write('gs://bucket/corpus/train', 2, [{'key': str(n)} for n in range(7)])
  assert len(os.listdir(bucket / 'corpus')) == 2
  copies = tmp_path / 'copies'
  found = array_record.ArrayRecord('gs://bucket/corpus', str(copies))
  assert [found[n]['key'] for n in range(7)] == list('0246135')
  assert found.name(0).startswith('gs://bucket/corpus/train-00000-of-00002')
  assert array_record.written('gs://bucket/corpus/train', 1, 2)
  assert not array_record.written('gs://bucket/corpus/train', 1, 3)
  before = {path: path.stat().st_mtime_ns for path in copies.iterdir()}
  assert len(before) == 2
  array_record.ArrayRecord('gs://bucket/corpus', str(copies))
  assert {path: path.stat().st_mtime_ns for path in copies.iterdir()} == before
  with pytest.raises(ValueError, match='a folder for copies'):
    array_record.ArrayRecord('gs://bucket/corpus', '')


def test_half_a_file_is_never_seen(tmp_path):
  prefix = tmp_path / 'train'
  with array_record.Writer(str(prefix), 0, 1) as writer:
    writer.write({'a': 1})
    with pytest.raises(ValueError, match='found none among the 0'):  # it is hidden
      array_record.ArrayRecord(str(tmp_path), '')
    assert not array_record.written(str(prefix), 0, 1)
  assert array_record.written(str(prefix), 0, 1)
  before = pathlib.Path(array_record.shard_path(str(prefix), 0, 1)).read_bytes()
  with pytest.raises(ValueError, match='can be stored'):
    write(prefix, 1, [{'a': 2}, {'a': object()}])
  assert os.listdir(tmp_path) == ['train-00000-of-00001.array_record']
  assert array_record.ArrayRecord(str(tmp_path), '')[0] == {'a': 1}
  with array_record.Writer(str(prefix), 0, 1) as writer:  # once more, over the old one
    writer.write({'a': 3})
  assert array_record.ArrayRecord(str(tmp_path), '')[0] == {'a': 3}
  assert pathlib.Path(array_record.shard_path(str(prefix), 0, 1)).read_bytes() != before


def test_incomplete_sets_are_refused(corpus):
  (corpus / 'train-00000-of-00002.array_record').unlink()
  with pytest.raises(
    ValueError, match='expected 2 files train-.*, found 1, .* number 0'
  ):
    array_record.ArrayRecord(str(corpus), '')


def test_an_empty_shard_is_no_mistake(tmp_path):
  write(tmp_path / 'a', 3, [{'n': 1}])
  found = array_record.ArrayRecord(str(tmp_path), '')
  assert [found[n] for n in range(len(found))] == [{'n': 1}]


def test_no_records(tmp_path):
  write(tmp_path / 'a', 2, [])
  with pytest.raises(ValueError, match='at least one record, found none in the 2'):
    array_record.ArrayRecord(str(tmp_path), '')


FOREIGN = {
  'protobuf': b'\n\x0f\n\r\n\x05label\x12\x04\x1a\x02\n\x00',
  'text': b'a fox',
  'a list': msgpack.packb([1, 2]),
  'cut': array_record.pack({'text': 'a fox'})[:-1],
  'more': array_record.pack({'text': 'a fox'}) + b'\0',
  'nothing': b'',
  'another extension': msgpack.packb({'a': msgpack.ExtType(5, b'x')}),
  'a bad array': msgpack.packb({'a': msgpack.ExtType(1, b'x')}),
  'a short array': msgpack.packb(
    {'a': msgpack.ExtType(1, msgpack.packb(['<f4', [3], bytes(8)]))}
  ),
  'a strange array': msgpack.packb(
    {'a': msgpack.ExtType(1, msgpack.packb(['O', [1], bytes(8)]))}
  ),
  'no UTF-8': b'\x81\xa1a\xa1\xff',
}


@pytest.mark.parametrize('case', FOREIGN)
def test_other_bytes(tmp_path, case):
  path = tmp_path / 'a.array_record'
  sound = array_record.pack({'ok': 1})
  for order in ([sound, FOREIGN[case]], [FOREIGN[case], sound]):
    writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
    for record in order:
      writer.write(record)
    writer.close()
    if order[0] == sound:  # one record is broken
      found = array_record.ArrayRecord(str(tmp_path), '')
      assert found[0] == {'ok': 1}
      with pytest.raises(ValueError, match='record 1: expected a record written by'):
        found[1]
    else:  # the file is of another format
      with pytest.raises(ValueError, match='a.array_record: record 0: expected a rec'):
        array_record.ArrayRecord(str(tmp_path), '')


@pytest.mark.parametrize('content', [b'', b'text' * 40_000, bytes(131_072), 0.5, 0.99])
def test_broken_files(corpus, content):
  path = corpus / 'train-00001-of-00002.array_record'
  data = path.read_bytes()
  if isinstance(content, float):
    content = data[: int(content * len(data))]
  path.write_bytes(content)
  with pytest.raises(
    ValueError, match='an ArrayRecord file, found .*train-00001'
  ) as told:
    array_record.ArrayRecord(str(corpus), '')
  assert '\n' not in str(told.value)


def test_flipped_bits_break_a_record_or_nothing(tmp_path):
  draw = np.random.default_rng(0)
  records = [{'n': n, 'data': draw.bytes(1000)} for n in range(60)]
  write(tmp_path / 'a', 1, records)
  path = pathlib.Path(array_record.shard_path(str(tmp_path / 'a'), 0, 1))
  data, broken = path.read_bytes(), 0
  for _ in range(40):
    damaged = bytearray(data)
    damaged[draw.integers(60_000)] ^= 1 << draw.integers(8)
    path.write_bytes(damaged)
    found = array_record.ArrayRecord(str(tmp_path), '')
    for n, record in enumerate(records):
      try:
        assert found[n] == record
      except ValueError as error:
        told, broken = str(error), broken + 1
  assert told.startswith(f'{path}: record ')
  assert broken >= 30


def test_what_may_not_be_read(corpus, bucket, tmp_path, forbid):
  shutil.copytree(corpus, bucket / 'corpus')
  forbid('train-00001')
  with pytest.raises(ValueError, match='gs://bucket/corpus/train-00001.*: Permission'):
    array_record.ArrayRecord('gs://bucket/corpus', str(tmp_path / 'copies'))
  assert len(os.listdir(tmp_path / 'copies')) == 1


def test_what_goes_to_a_bucket_is_written_where_nobody_can_put_a_link(
  tmp_path, monkeypatch
):
  mine, shared = tmp_path / 'mine', tmp_path / 'shared'
  mine.write_text('precious')
  shared.mkdir()
  monkeypatch.setattr(tempfile, 'tempdir', str(shared))
  name = f'.a-00000-of-00001.array_record.{os.getpid()}'
  (shared / name).symlink_to(mine)
  with array_record.Writer('memory://linked/a', 0, 1) as writer:
    writer.write({'text': 'a fox'})
  assert mine.read_text() == 'precious'
  assert [path.name for path in shared.iterdir()] == [name]  # the link alone
  assert array_record.written('memory://linked/a', 0, 1)
