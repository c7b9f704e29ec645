"""JSON Lines with pictures beside them, good and damaged."""

import base64
import io
import json
import os
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
    data = bytes(draw.choice(list(b'ab \n\n\r\t'), draw.integers(12)).tolist())
    bounds, kept = json_lines.lines(io.BytesIO(data))
    expected = data.split(b'\n')
    last = expected.pop()
    whole = [line + b'\n' for line in expected] + [last] * bool(last)
    assert [data[a:b] for a, b in zip(bounds, bounds[1:], strict=False)] == whole
    wanted = [n for n, line in enumerate(whole) if line.strip()]
    assert kept.tolist() == wanted


BROKEN = {
  'malformed': (b'{"a": 1', 'a mistake .* at column'),
  'two objects': (b'{"a": 1} {"a": 1}', 'a mistake .* at column 10'),
  'cut in text': (b'{"a": "b', 'a mistake'),
  'no object': (b'[1, 2]', 'a JSON object, found a list'),
  'null': (b'null', 'a JSON object, found null'),
  'bad UTF-8': (b'{"a": "caf\xe9"}', 'in UTF-8, found byte 0xe9'),
  'NUL bytes': (b'{"a": "\0"}', 'found a NUL'),
  'half a character': (b'{"a": "\\ud83e"}', 'cannot be used .*surrogates'),
  'too deep': (b'{"a": ' + b'[' * 100_000, 'at most 64 lists'),
  'deep objects': (b'{"a":' * 5000 + b'1' + b'}' * 5000, 'at most 64 lists'),
  'deep pictures': (b'{"images": ' + b'[' * 900 + b']' * 900 + b'}', 'at most 64 li'),
  'deep pictures, named': (
    b'{"images": ' + b'[' * 60 + b'"no.png"' + b']' * 60 + b'}',
    'no.png: No such',
  ),
  'a URL': (b'{"image": "https://example.org/a.png"}', 'the URL https://.*download'),
  'a URL of a bucket': (b'{"image": "gs://bucket/a.png"}', 'the URL gs://bucket/a.png'),
  'home': (b'{"image": "~/a.png"}', 'corpus/~/a.png: No such file'),
  'package': (b'{"image": "package:PIL/a.png"}', 'corpus/package:PIL/a.png: No such'),
  'linked outside': (b'{"image": "out.png"}', 'a file below .*corpus, found .out.png'),
  'in a folder linked outside': (b'{"image": "out/x.png"}', 'a file below .*corpus'),
  'a pipe': (b'{"image": "pipe.png"}', 'a regular file, found .*pipe.png'),
  'linked device': (b'{"image": "zero.png"}', 'a file below .*corpus'),
  'linked to itself': (b'{"image": "self.png"}', 'self.png: Too many levels'),
  'data: of no image': (
    b'{"image": "data:text/plain,hello"}',
    'base64 behind data:',
  ),
  'data: cut': (b'{"image": "data:image/png;base64,iVBO!"}', 'base64 behind data:'),
  'base64 cut': (
    b'{"image": "' + base64.b64encode(b'\x89PNG\r\n\x1a\n' + bytes(99)) + b'!"}',
    'an image in base64, found 145 characters',
  ),
  'long text': (b'{"image": "' + b'word ' * 2000 + b'"}', '10000 characters that are'),
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
  (corpus.parent / 'x.png').write_bytes(b'secret')
  for name, target in {
    'out.png': corpus.parent / 'x.png',
    'out': corpus.parent,
    'zero.png': '/dev/zero',
    'self.png': 'self.png',
  }.items():
    (corpus / name).symlink_to(target)
  os.mkfifo(corpus / 'pipe.png')
  (corpus / 'c.jsonl').write_bytes(b'{"ok": 1}\n' + line + b'\n{"ok": 2}\n')
  found = json_lines.JsonLines(str(corpus), PICTURES)
  assert len(found) == 6
  with pytest.raises(ValueError, match=message) as told:
    found[4]
  assert '\n' not in str(told.value)
  assert str(told.value).startswith(f'{corpus}/c.jsonl:2: ')
  assert found[5] == {'ok': 2}


def test_white_space_is_no_line_and_numbers_stay(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(b'\xef\xbb\xbf \n{"n": 1}\n  \t\n\r\r\n{"n": 2}\n \x0b\x0c')
  found = json_lines.JsonLines(str(path), ())
  assert [found[index] for index in range(len(found))] == [{'n': 1}, {'n': 2}]
  assert [found.name(index) for index in (0, 1)] == [f'{path}:2', f'{path}:5']


LISTS = {
  'plain': '[{"n": 1}, {"t": "é, [狐]", "n": 2}, {"n": 3}]',
  'over lines': '\ufeff [\n  {"n": 1},\n {"t": "é, [狐]",\n"n": 2}\n,{"n": 3}]\n ',
  'lines': '{"n": 1}\n \n{"t": "é, [狐]", "n": 2}\n{"n": 3}',
}


@pytest.mark.parametrize('case', LISTS)
def test_lists_in_json(tmp_path, case, check_contract):
  path = tmp_path / 'a.json'
  path.write_text(LISTS[case])
  found = json_lines.JsonLines(str(tmp_path), ())
  assert [found[index]['n'] for index in range(3)] == [1, 2, 3]
  assert found[1]['t'] == 'é, [狐]'
  assert found.name(1) == (f'{path}:3' if case == 'lines' else f'{path}[1]')
  check_contract(found, json_lines.JsonLines(str(path), ()))


def test_json_is_read_only_where_there_are_no_lines(corpus):
  before = json_lines.JsonLines(str(corpus), ()).fingerprint()
  (corpus / 'about.json').write_text('[{"x": 1}, 3]')
  found = json_lines.JsonLines(str(corpus), ())
  assert (len(found), found.fingerprint()) == (3, before)
  assert found.summary().line() == '3 records; passed over: 1 .json, 1 .png'
  found = json_lines.JsonLines(f'{corpus}/*.json', ())
  assert found[0] == {'x': 1}
  with pytest.raises(ValueError, match=r'about.json\[1\]: expected a JSON object'):
    found[1]


def test_images_in_base64(corpus, picture):
  plain = base64.b64encode(picture).decode()
  lines = [plain, f'data:image/png;base64,{plain}', plain.rstrip('=')]
  lines += [base64.urlsafe_b64encode(picture).decode(), f'{plain[:76]}\n{plain[76:]}']
  with (corpus / 'c.jsonl').open('w') as file:
    file.writelines(json.dumps({'images': [line, line]}) + '\n' for line in lines)
  found = json_lines.JsonLines(f'{corpus}/c.jsonl', PICTURES)
  assert [found[n]['images'] for n in range(len(found))] == [[picture] * 2] * len(lines)


def test_lists_of_one_image_and_of_none(corpus, picture):
  (corpus / 'c.jsonl').write_text('{"images": ["pictures/fox.png"]}\n{"images": []}')
  found = json_lines.JsonLines(f'{corpus}/c.jsonl', PICTURES)
  assert [found[0], found[1]] == [{'images': picture}, {}]


def test_names_reach_as_far_as_the_root_and_no_farther(corpus, picture, bucket):
  (corpus / 'lists' / 'deep').mkdir(parents=True)
  elsewhere = corpus.parent / 'elsewhere'
  shutil.copytree(corpus / 'pictures', elsewhere / 'pictures')
  (elsewhere / 'x.jsonl').write_text('{"image": "pictures/fox.png"}')
  (corpus / 'more').symlink_to(elsewhere)  # a linked folder is a part of the corpus
  line = json.dumps({'image': '../../pictures/fox.png'})
  (corpus / 'lists' / 'deep' / 'x.jsonl').write_text(line)
  for place in (str(corpus), f'{corpus}/**', f'{corpus}/*/*/x.jsonl'):
    found = json_lines.JsonLines(place, PICTURES)
    named = {found.name(n): found[n].get('image') for n in range(len(found))}
    assert named[f'{corpus}/lists/deep/x.jsonl:1'] == picture
  assert named_in(str(corpus / 'more')) == picture
  for place in (f'{corpus}/lists', f'{corpus}/lists/deep/x.jsonl'):
    with pytest.raises(ValueError, match='below .*lists.*give a folder that'):
      json_lines.JsonLines(place, PICTURES)[0]
  shutil.copytree(corpus / 'pictures', bucket / 'corpus' / 'pictures')
  shutil.copytree(corpus / 'pictures', bucket / 'other')
  for name, told in {
    '../pictures/fox.png': None,
    'gs://bucket/corpus/pictures/fox.png': None,
    '../../other/fox.png': 'a file below gs://bucket/corpus, found',
    'gs://bucket/other/fox.png': 'the URL gs://bucket/other/fox.png',
    'gs://bucket/corpus/../other/fox.png': 'a file below gs://bucket/corpus, found',
  }.items():
    (bucket / 'corpus' / 'lists').mkdir(exist_ok=True)
    (bucket / 'corpus' / 'lists' / 'x.jsonl').write_text(json.dumps({'image': name}))
    if told is None:
      assert named_in('gs://bucket/corpus') == picture
    else:
      with pytest.raises(ValueError, match=told):
        named_in('gs://bucket/corpus')


def named_in(place):
  return json_lines.JsonLines(place, PICTURES)[0]['image']


def test_a_huge_line(corpus):
  text = 'long ' * 5_000_000
  with (corpus / 'c.jsonl').open('w') as file:
    file.write(json.dumps({'text': text}))
  assert json_lines.JsonLines(str(corpus), PICTURES)[3] == {'text': text}


BROKEN_FILES = {
  'empty': ('x.jsonl', b'', 'at least one line, found none in the 1'),
  'white space': ('x.jsonl', b' \n\t\r\n\xc2\n'[:5], 'at least one line'),
  'no list': ('x.json', b'{\n"a": 1\n}', 'x.json: expected a list of objects, or'),
  'list cut': ('x.json', b'[{"a": 1}, {"a"', 'a mistake .* line 1, column 16'),
  'no comma': ('x.json', b'[{"a": 1} {"a": 2}]', 'Expecting , or ]. at line 1'),
  'more behind it': ('x.json', b'[{"a": 1}] 2', 'Extra data'),
  'deep list': ('x.json', b'[' * 100_000, 'at most 64'),
  'empty list': ('x.json', b'[ ]\n', 'at least one line, found none'),
  'list in Latin-1': ('x.json', b'["\xe9"]', 'in UTF-8, found byte 0xe9 at 2'),
  'blank lines': ('x.jsonl', b'\n\r\n\n', 'at least one line'),
  'compressed': ('x.jsonl.gz', b'\x1f\x8b', 'found x.jsonl.gz .*decompress it'),
  'another ending': (
    'x.yaml',
    b'[{}]',
    '.ndjson, .json, found .* .1 .yaml.',
  ),
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
