"""Parquet files in Hugging Face's layout and others, good and damaged."""

import base64
import datetime
import decimal
import shutil
import sys
import threading
import time
from concurrent import futures

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from tests.support import tiny
from transfusion_jax.data import corpus as corpus_lib
from transfusion_jax.data.sources import parquet

ROWS = 10


@pytest.fixture
def corpus(tmp_path, picture):
  """Two files of 10 and 5 rows, in groups of 4."""
  folder = tmp_path / 'corpus'
  folder.mkdir()
  for name, rows in (('a', ROWS), ('b', ROWS // 2)):
    pq.write_table(table(name, rows, picture), folder / f'{name}.parquet', 4)
  return folder


def table(name, rows, picture):
  return pa.table(
    {
      'text': [f'{name} {n} 狐' for n in range(rows)],
      'image': [{'bytes': picture, 'path': f'{n}.png'} for n in range(rows)],
      'more': [[{'bytes': picture, 'path': None}] * (n % 3) for n in range(rows)],
      'tokens': [list(range(n)) for n in range(rows)],
      'said': [[{'by': 'me', 'text': 'x'}] * 2] * rows,
      'none': pa.array([None] * rows, pa.string()),
      'raw': [b'\xff\0'] * rows,
      'day': [datetime.date(2024, 2, 29)] * rows,
      'price': [decimal.Decimal('1.50')] * rows,
      'score': [0.5] * rows,
    }
  )


def test_records(corpus, picture, check_contract):
  found = parquet.Parquet(str(corpus), (), 2)
  assert len(found) == ROWS + ROWS // 2
  assert found[ROWS + 2] == {
    'text': 'b 2 狐',
    'image': picture,
    'more': [picture] * 2,
    'tokens': [0, 1],
    'said.by': ['me', 'me'],
    'said.text': ['x', 'x'],
    'raw': b'\xff\0',
    'day': '2024-02-29',
    'price': '1.50',
    'score': 0.5,
  }
  assert found[9]['text'] == 'a 9 狐'
  assert found.name(9) == f'{corpus}/a.parquet: row 1 of group 2'
  check_contract(found, parquet.Parquet(f'{corpus}/*.parquet', (), 100))


def test_columns(corpus):
  found = parquet.Parquet(f'{corpus}/a.parquet', ('text', 'score'), 1)
  assert found[0] == {'text': 'a 0 狐', 'score': 0.5}
  everything = parquet.Parquet(f'{corpus}/a.parquet', (), 1)
  assert found.fingerprint() != everything.fingerprint()


def test_fields_of_columns_by_dotted_paths(tmp_path, picture):
  """As in every other format: structs, lists of them, in lists, maps, pictures."""
  image = {'bytes': picture, 'path': 'x.png'}
  content = pa.table(
    {
      'meta': [{'caption': 'a', 'by': {'name': 'me', 'id': 1}, 'image': image}],
      'said': [[{'text': 'x', 'n': 1}, {'text': 'y', 'n': 2}]],
      'deep': [{'list': [[{'a': [1, 2]}]]}],
      'with.dot': ['d'],
      'map': pa.array([[('k', 'v')]], pa.map_(pa.string(), pa.string())),
      'shows': pa.array(
        [[image]],
        pa.large_list(pa.struct([('bytes', pa.binary()), ('path', pa.string())])),
      ),
      'big': ['unread' * 1000],
    }
  )
  pq.write_table(content, tmp_path / 'a.parquet')
  everything = parquet.Parquet(str(tmp_path), (), 1)[0]
  for column in ('meta.caption', 'meta.by.name', 'said.text', 'with.dot', 'meta.image'):
    found = parquet.Parquet(str(tmp_path), (column,), 1)[0]
    assert found == {column: everything[column]}
  both = ('meta.by.id', 'said.n', 'deep.list', 'map', 'shows')
  found = parquet.Parquet(str(tmp_path), both, 1)
  assert found[0] == {name: everything[name] for name in both}
  assert found._read(0).column_names == ['meta', 'said', 'deep', 'map', 'shows']
  assert parquet.Parquet(str(tmp_path), ('meta',), 1)[0].keys() == {
    'meta.caption',
    'meta.by.name',
    'meta.by.id',
    'meta.image',
  }
  assert parquet.Parquet(str(tmp_path), ('meta.image.bytes',), 1)[0] == {
    'meta.image.bytes': picture
  }
  for wrong in ('meta.none', 'met', 'said.text.x', 'meta.', ''):
    with pytest.raises(ValueError, match=f"expected a column '{wrong}' in .*said.text"):
      parquet.Parquet(str(tmp_path), (wrong,), 1)


def test_dotted_paths_in_a_form(tmp_path, picture):
  """As the README promises: `form.text=meta.caption`, and pictures by their names."""
  (tmp_path / 'a.png').write_bytes(picture)
  rows = {'meta': [{'caption': 'a fox', 'file': 'a.png'}] * 2}
  pq.write_table(pa.table(rows), tmp_path / 'a.parquet')
  config = tiny.source(
    'parquet', str(tmp_path), text='meta.caption', picture='meta.file'
  )
  found = corpus_lib.open_records(config)
  assert found[1] == {'meta.caption': 'a fox', 'meta.file': picture}


def test_pictures_by_name_in_base64_and_in_lists(tmp_path, picture, check_contract):
  (tmp_path / 'lists').mkdir()
  (tmp_path / 'a.png').write_bytes(picture)
  encoded = base64.b64encode(picture).decode()
  (tmp_path.parent / 'secret.png').write_bytes(picture)
  content = pa.table(
    {
      'name': ['../a.png', f'{tmp_path}/a.png', encoded, None, '../../secret.png'],
      'one': [[picture], [], None, [picture, picture], [picture]],
      'names': [['../a.png'], ['../a.png'] * 2, [encoded], [None], [None, encoded]],
      'alone': [{'bytes': None, 'path': '../a.png'}] * 3
      + [{'bytes': picture, 'path': 'none.png'}, {'bytes': None, 'path': None}],
    }
  )
  pq.write_table(content, tmp_path / 'lists' / 'a.parquet')
  pictures = ('name', 'one', 'names', 'alone')
  found = parquet.Parquet(str(tmp_path), pictures, 1, pictures)
  assert [found[n] for n in range(4)] == [
    {'name': picture, 'one': picture, 'names': picture, 'alone': picture},
    {'name': picture, 'names': [picture] * 2, 'alone': picture},
    {'name': picture, 'names': picture, 'alone': picture},
    {'one': [picture] * 2, 'names': [None], 'alone': picture},
  ]
  with pytest.raises(ValueError, match='row 4 of group 0: .* a file below .*secret'):
    found[4]
  others = parquet.Parquet(str(tmp_path), pictures[1:], 1, pictures[1:])
  assert others[4] == {'one': picture, 'names': [None, picture]}
  check_contract(others, parquet.Parquet(str(tmp_path), pictures[1:], 1, pictures[1:]))
  assert found.summary().line() == '5 records; passed over: 1 .png'


def test_in_a_bucket(corpus, bucket):
  shutil.copytree(corpus, bucket / 'corpus')
  found = parquet.Parquet('gs://bucket/corpus', ('text',), 1)
  assert [found[index]['text'] for index in (0, 14, 5)] == [
    'a 0 狐',
    'b 4 狐',
    'a 5 狐',
  ]


def test_the_last_groups_are_kept_and_read_once():
  recent, made = parquet.Recent(2), []

  def make(key):
    made.append(key)
    time.sleep(0.01)
    return -key

  for key in (1, 2, 1, 3, 1, 2):  # 2 was used longest ago when 3 came
    assert recent.get(key, make) == -key
  assert made == [1, 2, 3, 2]
  made.clear()
  barrier = threading.Barrier(8)

  def ask(_):
    barrier.wait()
    return recent.get(7, make)

  with futures.ThreadPoolExecutor(8) as pool:
    assert list(pool.map(ask, range(8))) == [-7] * 8
  assert made == [7]


def test_a_failed_read_is_tried_again():
  recent, tries = parquet.Recent(1), []

  def make(key):
    tries.append(key)
    if len(tries) == 1:
      raise ValueError('not now')
    return key

  with pytest.raises(ValueError, match='not now'):
    recent.get(1, make)
  assert recent.get(1, make) == 1


@pytest.mark.parametrize('cut', [0, 3, 4, 100, 0.5, 0.9, -1])
def test_truncated_files(corpus, cut):
  path = corpus / 'b.parquet'
  data = path.read_bytes()
  path.write_bytes(data[: int(cut * len(data)) if isinstance(cut, float) else cut])
  with pytest.raises(ValueError, match='a Parquet file, found .*b.parquet') as told:
    parquet.Parquet(str(corpus), (), 1)
  assert '\n' not in str(told.value)


BROKEN_FILES = {
  'text': (b'text,image\na,b\n', 'found .*x.parquet: '),
  'zeros': (bytes(1000), 'found .*x.parquet: '),
  'noise': (np.random.default_rng(0).bytes(10_000), 'found .*x.parquet: '),
  'noise in a frame': (b'PAR1' + b'\xff' * 99 + b'\x20\0\0\0PAR1', 'found .*x.parquet'),
}


@pytest.mark.parametrize('case', BROKEN_FILES)
def test_broken_files(tmp_path, case):
  content, message = BROKEN_FILES[case]
  (tmp_path / 'x.parquet').write_bytes(content)
  with pytest.raises(ValueError, match=message) as told:
    parquet.Parquet(str(tmp_path), (), 1)
  assert '\n' not in str(told.value)


def test_flipped_bits_break_records_at_worst(corpus):
  path = corpus / 'a.parquet'
  data = path.read_bytes()
  draw = np.random.default_rng(0)
  outcomes = set()
  for _ in range(60):
    damaged = bytearray(data)
    damaged[draw.integers(len(data))] ^= 1 << draw.integers(8)
    path.write_bytes(damaged)
    outcomes.add(read_all(str(path)))
  assert {'file', 'record'} <= outcomes


def read_all(path):
  """Reads what can be read; what cannot be, the file or a record."""
  try:
    found = parquet.Parquet(path, (), 1)
  except ValueError:
    return 'file'
  broken = []
  for index in range(min(len(found), 2 * ROWS)):
    try:
      found[index]
    except ValueError as error:
      broken.append(str(error))
  assert all(told.startswith(f'{path}: row ') for told in broken)
  return 'record' if broken else 'sound'


def test_broken_records(tmp_path, picture):
  text = pa.array(['ok', 'x'], pa.string())
  bad = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(np.int32([0, 2, 3])), pa.py_buffer(b'ok\xff')]
  )
  assert bad.type == text.type
  image = [{'bytes': picture, 'path': 'a'}, {'bytes': None, 'path': 'b.png'}]
  pq.write_table(pa.table({'text': bad}), tmp_path / 'a.parquet')
  pq.write_table(pa.table({'text': ['ok', 'y'], 'i': image}), tmp_path / 'b.parquet')
  found = parquet.Parquet(f'{tmp_path}/a.parquet', (), 1)
  assert found[0] == {'text': 'ok'}
  with pytest.raises(ValueError, match='a.parquet: row 1 of group 0: expected text in'):
    found[1]
  found = parquet.Parquet(f'{tmp_path}/b.parquet', (), 1)
  assert found[0] == {'text': 'ok', 'i': picture}
  assert found[1] == {'text': 'y', 'i': 'b.png'}
  found = parquet.Parquet(f'{tmp_path}/b.parquet', (), 1, ('i',))
  assert found[0] == {'text': 'ok', 'i': picture}
  with pytest.raises(ValueError, match='row 1 of group 0: .*b.png: No such file'):
    found[1]


def test_what_cannot_be_used(tmp_path, corpus, monkeypatch):
  with pytest.raises(
    ValueError, match="a column 'caption' in .*a.parquet, found .'text"
  ):
    parquet.Parquet(str(corpus), ('caption',), 1)
  with pytest.raises(ValueError, match='at least 1 row group to keep, found 0'):
    parquet.Parquet(str(corpus), (), 0)
  pq.write_table(pa.table({'a': pa.array([], pa.string())}), tmp_path / 'none.parquet')
  with pytest.raises(ValueError, match='at least one row, found none in the 1'):
    parquet.Parquet(f'{tmp_path}/none.parquet', (), 1)
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  with pytest.raises(ValueError, match=r"pip install 'transfusion-jax\[data\]'"):
    parquet.Parquet(str(corpus), (), 1)


def test_what_may_not_be_read(corpus, bucket, forbid):
  shutil.copytree(corpus, bucket / 'corpus')
  found = parquet.Parquet('gs://bucket/corpus', (), 1)
  forbid('b.parquet')
  with pytest.raises(ValueError, match='row 0 of group 0: .*b.parquet: Permission'):
    found[ROWS]
