"""WebDataset shards, good and damaged."""

import gzip
import io
import json
import shutil
import tarfile

import pytest

from transfusion_jax.data.sources import web_dataset


def write(path, members, **options):
  with tarfile.open(path, 'w', **options) as opened:
    for name, data in members:
      info = tarfile.TarInfo(name)
      if data is None:
        info.type = tarfile.DIRTYPE
        opened.addfile(info)
      else:
        info.size = len(data)
        opened.addfile(info, io.BytesIO(data))


@pytest.fixture
def corpus(tmp_path, picture):
  folder = tmp_path / 'corpus'
  folder.mkdir()
  about = json.dumps({'url': 'x', 'size': {'w': 4}, 'talk': [{'a': 1}, {'b': 2}]})
  long = 'deep/' * 40 + 'name'
  write(
    folder / 'a-0.tar',
    [
      ('.', None),
      ('part/0.jpg', picture),
      ('part/0.TXT', b'\xef\xbb\xbfA fox\r\n'),
      ('part/0.json', about.encode()),
      ('part/1.left.png', picture + b'1'),
      ('part/1.right.png', picture + b'2'),
      ('part/1.cls', b'7\n'),
      ('part/1.npy', b'raw'),
      ('part/._1.jpg', b'x'),
      ('README', b'x'),
    ],
  )
  write(folder / 'a-1.tar', [(f'{long}.caption', b'An owl')], format=tarfile.PAX_FORMAT)
  write(folder / 'a-2.tar', [(f'{long}.txt', b'')], format=tarfile.GNU_FORMAT)
  write(folder / 'a-3.tar', [])
  return folder


def test_records(corpus, picture, check_contract):
  found = web_dataset.WebDataset(str(corpus))
  long = 'deep/' * 40 + 'name'
  assert [found[index] for index in range(len(found))] == [
    {
      'key': 'part/0',
      'jpg': picture,
      'image': picture,
      'txt': 'A fox',
      'text': 'A fox',
      'json.url': 'x',
      'json.size.w': 4,
      'json.talk.a': [1, None],
      'json.talk.b': [None, 2],
    },
    {
      'key': 'part/1',
      'left.png': picture + b'1',
      'right.png': picture + b'2',
      'image': picture + b'1',
      'cls': 7,
      'npy': b'raw',
    },
    {'key': long, 'caption': 'An owl', 'text': 'An owl'},
    {'key': long, 'txt': '', 'text': ''},
  ]
  assert found.name(1) == f'{corpus}/a-0.tar: part/1'
  check_contract(found, web_dataset.WebDataset(f'{corpus}/a-*.tar'))


def test_in_a_bucket(corpus, bucket, picture, forbid):
  shutil.copytree(corpus, bucket / 'corpus')
  found = web_dataset.WebDataset('gs://bucket/corpus')
  assert found[0]['image'] == picture
  assert found.name(0) == 'gs://bucket/corpus/a-0.tar: part/0'
  forbid('a-1')
  with pytest.raises(ValueError, match='a-1.tar: Permission denied'):
    found[2]
  with pytest.raises(ValueError, match='a-1.tar: Permission denied'):
    web_dataset.WebDataset('gs://bucket/corpus')


def test_fingerprints(corpus):
  before = web_dataset.WebDataset(str(corpus)).fingerprint()
  (corpus / 'a-1.tar').rename(corpus / 'b-1.tar')
  assert web_dataset.WebDataset(str(corpus)).fingerprint() != before


BROKEN = {
  'one name twice': ([('0.jpg', b'x'), ('0.jpg', b'y')], 'one member .jpg, found sev'),
  'in two cases': (
    [('0.jpg', b'x'), ('0.JPG', b'y')],
    'one member .jpg, found several',
  ),
  'empty picture': ([('0.jpg', b'')], '0.jpg: expected a picture, found 0.jpg empty'),
  'text in Latin-1': ([('0.txt', b'caf\xe9')], '0.txt: expected text in UTF-8'),
  'NUL bytes': ([('0.txt', bytes(9))], '0.txt: expected text in UTF-8, found a NUL'),
  'malformed JSON': ([('0.json', b'{"a": ')], '0.json: .*a mistake'),
  'JSON list': ([('0.json', b'[1]')], '0.json: expected a JSON object, found a list'),
  'no number': ([('0.cls', b'cat')], '0.cls: expected a whole number'),
  'one path twice': ([('0.json', b'{"a": 1}'), ('0.json.a', b'')], "'json.a' twice"),
}


@pytest.mark.parametrize('case', BROKEN)
def test_broken_records(tmp_path, case):
  members, message = BROKEN[case]
  write(tmp_path / 'a.tar', [*members, ('ok.txt', b'ok')])
  found = web_dataset.WebDataset(str(tmp_path))
  assert len(found) == 2
  with pytest.raises(ValueError, match=message) as told:
    found[0]
  assert str(told.value).startswith(f'{tmp_path}/a.tar: 0: ')
  assert '\n' not in str(told.value)
  assert found[1]['text'] == 'ok'


def test_what_it_holds(corpus, tmp_path, picture):
  found = web_dataset.WebDataset(str(corpus)).summary()
  assert found.line() == (
    '1 pair, 1 image alone, 2 texts alone; passed over: 1 .npy, 1 without an ending'
  )
  (told,) = found.warnings
  assert told.startswith("the ending .png returns 1 times under the key 'part/1': ")
  write(tmp_path / 'b.tar', [('0.jpg', picture), ('0.json', b'{"caption": "a"}')])
  (tmp_path / 'notes.md').write_text('x')
  found = web_dataset.WebDataset(f'{tmp_path}/*').summary()
  assert (found.pairs, found.line()) == (None, '1 record; passed over: 1 .md')


def test_names_with_dots_are_told_of(tmp_path, picture):
  """24 pairs, `clip 1.00` to `clip 1.23`, are one record by the rule of keys."""
  members = [
    (f'a/clip {key}.{n:02}.{ending}', data)
    for key in (1, 2)
    for n in range(24 if key == 1 else 2)
    for ending, data in (('png', picture), ('txt', b'a clip'))
  ]
  write(tmp_path / 'a.tar', members)
  found = web_dataset.WebDataset(str(tmp_path))
  assert found.summary().line() == '2 pairs'
  image, text = found.summary().warnings
  assert text == (
    "the ending .txt returns 23 times under the key 'a/clip 1' (and 1 more): "
    'a key ends at the first dot of the base name, so that these 24 members are one '
    'record; write names without further dots, or name the member that is meant in '
    "form, such as '00.txt'"
  )
  assert image.startswith('the ending .png returns 23 times under the key')


def test_other_kinds_of_images(tmp_path, picture):
  endings = ('avif', 'heic', 'jfif', 'ppm', 'TIFF')
  write(tmp_path / 'a.tar', [(f'{n}.{e}', picture) for n, e in enumerate(endings)])
  found = web_dataset.WebDataset(str(tmp_path))
  assert [found[n]['image'] for n in range(len(endings))] == [picture] * len(endings)


def test_a_name_that_comes_again_is_another_record(tmp_path):
  write(tmp_path / 'a.tar', [('0.txt', b'a'), ('1.txt', b'b'), ('0.txt', b'c')])
  found = web_dataset.WebDataset(str(tmp_path))
  assert [found[index]['txt'] for index in range(3)] == ['a', 'b', 'c']


@pytest.mark.parametrize('format', [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_truncated_shards(tmp_path, format):
  long = 'deep/' * 40
  members = [(f'{long}{n}.txt', b'x' * 700) for n in range(3)]
  path = tmp_path / 'a.tar'
  write(path, members, format=format)
  data = path.read_bytes()
  with tarfile.open(path) as opened:
    end = max(member.offset_data + 1024 for member in opened)
  assert data[end:].count(0) == len(data) - end
  for size in [*range(0, end, 256), end - 1, end, end + 511]:
    path.write_bytes(data[:size])
    with pytest.raises(ValueError, match='a whole tar file, found .*a.tar: ') as told:
      web_dataset.WebDataset(str(path))
    assert '\n' not in str(told.value)
  path.write_bytes(data[: end + 512])
  assert len(web_dataset.WebDataset(str(path))) == 3


def test_damaged_headers(tmp_path):
  path = tmp_path / 'a.tar'
  write(path, [(f'{n}.txt', b'x') for n in range(3)])
  data = path.read_bytes()
  for place in (0, 100, 124, 1024, 1024 + 124, 2048 + 148):
    damaged = bytearray(data)
    damaged[place] ^= 0x14
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match='a whole tar file, found .*a.tar: '):
      web_dataset.WebDataset(str(path))


BROKEN_FILES = {
  'empty': ('a.tar', b'', 'found .*a.tar: '),
  'text': ('a.tar', b'hello' * 1000, 'found .*a.tar: '),
  'compressed inside': ('a.tar', gzip.compress(bytes(10240)), 'found .*a.tar: '),
  'no members': (
    'a.tar',
    bytes(10240),
    'members such as name.jpg, found none in the 1',
  ),
  'compressed': ('a.tar.gz', b'', 'found a.tar.gz .*decompress it'),
  'compressed, short': ('a.tgz', b'', 'found a.tgz .*decompress it'),
}


@pytest.mark.parametrize('case', BROKEN_FILES)
def test_broken_files(tmp_path, case):
  name, content, message = BROKEN_FILES[case]
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=message) as told:
    web_dataset.WebDataset(str(tmp_path))
  assert '\n' not in str(told.value)


def test_a_shard_that_shrinks(corpus):
  found = web_dataset.WebDataset(str(corpus))
  data = (corpus / 'a-0.tar').read_bytes()
  (corpus / 'a-0.tar').write_bytes(data[:600])
  with pytest.raises(ValueError, match='a-0.tar: part/0: .* it changed'):
    found[0]
