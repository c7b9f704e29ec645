"""JSON Lines with pictures beside them, good and damaged."""

import io
import json
import shutil

import numpy as np
import pytest

from transfusion_jax.data.sources import json_lines

LINES = [
  {'text': 'A fox 🦊', 'image': 'pictures/fox.png', 'score': 0.5, 'none': None},
  {'text': '', 'images': ['pictures/fox.png', 'pictures/fox.png'], 'n': 3},
  {'talk': [{'said': 'Hello\n\u2028there'}, {'show': 'pictures/fox.png'}]},
]
PICTURES = ('image', 'images', 'talk.show')


@pytest.fixture
def corpus(tmp_path, picture):
  folder = tmp_path / 'corpus'
  (folder / 'pictures').mkdir(parents=True)
  (folder / 'pictures' / 'fox.png').write_bytes(picture)
  first, *rest = [json.dumps(line) for line in LINES]
  (folder / 'a.jsonl').write_text(f'{first}\n\n')
  (folder / 'b.jsonl').write_bytes('\r\n'.join(['\ufeff' + rest[0], rest[1]]).encode())
  return folder


def test_records(corpus, picture, check_contract):
  found = json_lines.JsonLines(str(corpus), PICTURES)
  assert [found[index] for index in range(len(found))] == [
    {'text': 'A fox 🦊', 'image': picture, 'score': 0.5},
    {'text': '', 'images': [picture, picture], 'n': 3},
    {'talk.said': ['Hello\n\u2028there', None], 'talk.show': [None, picture]},
  ]
  assert found.name(2) == f'{corpus}/b.jsonl:2'
  check_contract(found, json_lines.JsonLines(f'{corpus}/*.jsonl', PICTURES))


def test_paths_stay_paths_unless_named(corpus):
  assert json_lines.JsonLines(str(corpus), ())[0]['image'] == 'pictures/fox.png'


def test_in_a_bucket(corpus, bucket, picture):
  shutil.copytree(corpus, bucket / 'corpus')
  found = json_lines.JsonLines('gs://bucket/corpus', PICTURES)
  assert found[0]['image'] == picture
  assert found.name(0) == 'gs://bucket/corpus/a.jsonl:1'


def test_fingerprints(corpus):
  before = json_lines.JsonLines(str(corpus), ()).fingerprint()
  assert json_lines.JsonLines(str(corpus), PICTURES).fingerprint() != before
  with (corpus / 'a.jsonl').open('a') as file:
    file.write('{}\n')
  assert json_lines.JsonLines(str(corpus), ()).fingerprint() != before


@pytest.mark.parametrize('block', [1, 2, 3, 7, 1000])
def test_lines_are_found_whatever_the_block(monkeypatch, block):
  monkeypatch.setattr(json_lines, 'BLOCK', block)
  draw = np.random.default_rng(block)
  for _ in range(200):
    data = bytes(draw.choice(list(b'ab\n\n\r'), draw.integers(12)).tolist())
    bounds, kept = json_lines.lines(io.BytesIO(data))
    expected = data.split(b'\n')
    last = expected.pop()
    whole = [line + b'\n' for line in expected] + [last] * bool(last)
    assert [data[a:b] for a, b in zip(bounds, bounds[1:], strict=False)] == whole
    wanted = [n for n, line in enumerate(whole) if line not in (b'\n', b'\r\n')]
    assert kept.tolist() == wanted


BROKEN = {
  'malformed': (b'{"a": 1', 'a mistake .* at column'),
  'two objects': (b'{"a": 1} {"a": 1}', 'a mistake .* at column 10'),
  'cut in text': (b'{"a": "b', 'a mistake'),
  'no object': (b'[1, 2]', 'expected an object, found list'),
  'null': (b'null', 'expected an object, found NoneType'),
  'blank': (b'   ', 'a mistake'),
  'bad UTF-8': (b'{"a": "caf\xe9"}', 'in UTF-8, found byte 0xe9'),
  'NUL bytes': (b'{"a": "\0"}', 'found a NUL'),
  'half a character': (b'{"a": "\\ud83e"}', 'cannot be used .*surrogates'),
  'too deep': (b'{"a": ' + b'[' * 100_000, 'cannot be used'),
  'deep objects': (b'{"a":' * 5000 + b'1' + b'}' * 5000, 'cannot be used'),
  'huge number': (b'{"a": ' + b'9' * 10_000 + b'}', 'expected|Exceeds'),
  'one path twice': (b'{"a": {"b": 1}, "a.b": 2}', "found 'a.b' twice"),
  'mixed list': (b'{"a": [{"b": 1}, 2]}', "list 'a', found both"),
  'missing picture': (b'{"image": "none.png"}', 'found .*none.png: No such file'),
  'picture outside': (b'{"image": "../x.png"}', 'a file below .*corpus, found'),
  'absolute picture': (b'{"image": "/x.png"}', 'a file below .*corpus, found'),
  'picture is a folder': (b'{"image": "pictures"}', 'found .*pictures: Is a dir'),
  'picture is empty': (b'{"image": "empty.png"}', 'empty.png empty'),
  'picture is a number': (b'{"image": 3}', "picture file in 'image', found int"),
  'picture has a NUL': (b'{"image": "a\\u0000b"}', 'expected|embedded'),
  'picture in a list': (b'{"images": ["pictures/fox.png", "no"]}', 'no: No such file'),
}


@pytest.mark.parametrize('case', BROKEN)
def test_broken_records(corpus, case):
  line, message = BROKEN[case]
  (corpus / 'empty.png').write_bytes(b'')
  (corpus / 'c.jsonl').write_bytes(b'{"ok": 1}\n' + line + b'\n{"ok": 2}\n')
  found = json_lines.JsonLines(str(corpus), PICTURES)
  assert len(found) == 6
  with pytest.raises(ValueError, match=message) as told:
    found[4]
  assert '\n' not in str(told.value)
  assert str(told.value).startswith(f'{corpus}/c.jsonl:2: ')
  assert found[5] == {'ok': 2}


def test_a_huge_line(corpus):
  text = 'long ' * 5_000_000
  with (corpus / 'c.jsonl').open('w') as file:
    file.write(json.dumps({'text': text}))
  assert json_lines.JsonLines(str(corpus), PICTURES)[3] == {'text': text}


BROKEN_FILES = {
  'empty': ('x.jsonl', b'', 'at least one line, found none in the 1'),
  'blank lines': ('x.jsonl', b'\n\r\n\n', 'at least one line'),
  'compressed': ('x.jsonl.gz', b'\x1f\x8b', 'found x.jsonl.gz .*decompress it'),
  'another ending': ('x.json', b'[{}]', 'files that end in .jsonl, .ndjson'),
}


@pytest.mark.parametrize('case', BROKEN_FILES)
def test_broken_files(tmp_path, case):
  name, content, message = BROKEN_FILES[case]
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=message) as told:
    json_lines.JsonLines(str(tmp_path), ())
  assert str(tmp_path) in str(told.value)


def test_a_file_that_shrinks_or_may_not_be_read(corpus, bucket, forbid):
  shutil.copytree(corpus, bucket / 'corpus')
  found = json_lines.JsonLines('gs://bucket/corpus', ())
  (bucket / 'corpus' / 'a.jsonl').write_text('{')
  with pytest.raises(ValueError, match='a.jsonl:1: .* it changed'):
    found[0]
  forbid('b.jsonl')
  with pytest.raises(ValueError, match='b.jsonl: Permission denied'):
    found[1]
  with pytest.raises(ValueError, match='b.jsonl: Permission denied'):
    json_lines.JsonLines('gs://bucket/corpus', ())
