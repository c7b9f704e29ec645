"""A folder of `name.jpg` and `name.txt`, good and damaged."""

import json
import re
import shutil

import pytest
from PIL import Image, features

from transfusion_jax.data.images import image_files
from transfusion_jax.data.sources import folder, source


@pytest.fixture
def corpus(tmp_path, picture):
  """A picture with text, one without, a text without; and what does not count."""
  for name, content in {
    'fox.jpg': picture,
    'fox.txt': b'\xef\xbb\xbfA fox,\r\nred.\r\n',
    'deep/owl.PNG': picture,
    'deep/story.txt': 'Naïve 狐.'.encode(),
    'deep/._owl.PNG': b'x',
    'notes.md': b'x',
  }.items():
    (tmp_path / 'corpus' / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / 'corpus' / name).write_bytes(content)
  return tmp_path / 'corpus'


def test_records(corpus, picture, check_contract):
  found = folder.Folder(str(corpus))
  assert [found[index] for index in range(len(found))] == [
    {'key': 'deep/owl', 'text': '', 'image': picture},
    {'key': 'deep/story', 'text': 'Naïve 狐.'},
    {'key': 'fox', 'text': 'A fox,\nred.', 'image': picture},
  ]
  assert found.name(1) == f'{corpus}/deep/story.txt'
  check_contract(found, folder.Folder(str(corpus)))


def test_in_a_bucket(corpus, bucket, picture):
  shutil.copytree(corpus, bucket / 'corpus')
  found = folder.Folder('gs://bucket/corpus')
  assert found[2] == {'key': 'fox', 'text': 'A fox,\nred.', 'image': picture}
  assert found.name(2) == 'gs://bucket/corpus/fox.jpg'
  assert found.fingerprint() == folder.Folder(str(corpus)).fingerprint()


def test_pictures_of_one_name_share_their_text(corpus, picture):
  (corpus / 'fox.webp').write_bytes(picture)
  found = folder.Folder(str(corpus))
  assert [found[index]['text'] for index in (2, 3)] == ['A fox,\nred.'] * 2


def fill(folder, files):
  for name, content in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def records(place):
  found = folder.Folder(str(place))
  return {found.name(n).removeprefix(f'{place}/'): found[n] for n in range(len(found))}


def test_conventions_of_captions(tmp_path, picture, check_contract):
  lines = [
    {'file_name': 'd.png', 'text': 'D', 'size': {'w': 4}, 'captions': ['D1', 'D2']},
    {'file_name': './deep/e.png', 'text': ['E1', 'E2']},
  ]
  fill(
    tmp_path,
    dict.fromkeys(('a.png', 'b.png', 'c.png', 'd.png', 'deep/e.png'), picture)
    | {'f.png': picture, 'deep/g.jpg': picture, 'c.x.png': picture},
  )
  fill(
    tmp_path,
    {
      'a.txt': b'A',
      'b.caption': b'B\n',
      'c.png.txt': b'C',
      'c.x.png.caption': b'CX',
      'alone.caption': b'alone',
      'metadata.jsonl': '\n'.join(map(json.dumps, lines)).encode(),
      'deep/metadata.csv': b'\xef\xbb\xbffile_name,text\r\ng.jpg,"G, ""g"""\r\n',
    },
  )
  found = records(tmp_path)
  assert {name: record['text'] for name, record in found.items()} == {
    'a.png': 'A',
    'alone.caption': 'alone',
    'b.png': 'B',
    'c.png': 'C',
    'c.x.png': 'CX',
    'd.png': 'D',
    'deep/e.png': ['E1', 'E2'],
    'deep/g.jpg': 'G, "g"',
    'f.png': '',
  }
  assert found['d.png'] == {
    'key': 'd',
    'text': 'D',
    'size.w': 4,
    'captions': ['D1', 'D2'],
    'image': picture,
  }
  opened = folder.Folder(str(tmp_path))
  assert opened.summary().line() == '7 pairs, 1 image alone, 1 text alone'
  assert opened.summary().warnings == ()
  check_contract(opened, folder.Folder(str(tmp_path)))


def test_of_several_texts_one_is_taken_and_told(tmp_path, picture):
  fill(tmp_path, {'a.png': picture, 'b.png': picture, 'b.txt': b'same'})
  fill(tmp_path, {'b.png.txt': b'same', 'a.png.caption': b'4', 'a.png.txt': b'3'})
  fill(tmp_path, {'metadata.jsonl': b'{"file_name": "a.png", "text": "5", "n": 6}'})
  for taken in ('3', '2', '1'):
    if taken == '2':
      fill(tmp_path, {'a.caption': b'2'})
    elif taken == '1':
      fill(tmp_path, {'a.txt': b'1'})
    assert records(tmp_path)['a.png']['text'] == taken
    assert records(tmp_path)['a.png']['n'] == 6
    (told,) = folder.Folder(str(tmp_path)).summary().warnings
    assert told.startswith(
      '1 of the first 2 pictures with several texts have differing'
    )
  assert 'a.txt is taken and a.caption is not' in told
  assert len(records(tmp_path)) == 2


METADATA = {
  'stranger': (
    b'{"file_name": "none.png", "text": "x"}',
    "names 1 .* 'none.p",
  ),
  'outside': (b'{"file_name": "../../a.png", "text": "x"}', 'names 1 pictures'),
  'no file_name': (b'{"image": "a.png", "text": "x"}', 'fields are image, text'),
  'no text': (
    b'{"file_name": "a.png", "prompt": "x"}',
    "no field 'text'.* prompt, ",
  ),
  'twice': (b'{"file_name": "a.png", "text": "x"}\n' * 2, '1 more lines of pictures'),
}


@pytest.mark.parametrize('case', METADATA)
def test_metadata_that_says_nothing_is_told_of(tmp_path, case, picture):
  content, message = METADATA[case]
  fill(tmp_path, {'deep/a.png': picture, 'deep/metadata.jsonl': content})
  fill(tmp_path, {'a.png': picture})
  warnings = folder.Folder(str(tmp_path)).summary().warnings
  assert any(re.search(message, told) for told in warnings), warnings


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('metadata.jsonl', b'{"file_name": "a.png"}\n \n{"file', 'metadata.jsonl: line 3'),
    ('metadata.jsonl', b'[1]', 'line 1: expected a JSON object, found a list'),
    ('metadata.jsonl', b'{"a":' * 500 + b'1' + b'}' * 500, 'at most 64 lists'),
    ('metadata.csv', b'file_name,text\na.png,caf\xe9', 'metadata.csv: .*in UTF-8'),
    ('metadata.csv', b'file_name,text\na.png,' + b'x' * 200_000, 'metadata.csv: field'),
  ],
)
def test_metadata_that_is_broken(tmp_path, name, content, message, picture):
  fill(tmp_path, {'a.png': picture, name: content})
  with pytest.raises(ValueError, match=message) as told:
    folder.Folder(str(tmp_path))
  assert '\n' not in str(told.value)


def test_metadata_alone(tmp_path):
  fill(tmp_path, {'metadata.jsonl': b'{"file_name": "a.png"}'})
  with pytest.raises(ValueError, match='found metadata alone'):
    folder.Folder(str(tmp_path))


def test_other_kinds_of_images(tmp_path, picture):
  endings = ('avif', 'HEIC', 'jfif', 'ppm', 'tiff')
  fill(tmp_path, {f'{n}.{e}': picture for n, e in enumerate(endings)})
  fill(tmp_path, {'0.txt': b'zero', 'x.xyz': b'x', 'y.xyz': b'y', 'z.md': b'z'})
  found = folder.Folder(str(tmp_path))
  assert all(found[n]['image'] == picture for n in range(len(endings)))
  assert found.summary().line() == (
    '1 pair, 4 images alone; passed over: 2 .xyz, 1 .md'
  )


@pytest.mark.skipif(not features.check('avif'), reason='this Pillow reads no AVIF')
def test_every_captioned_image_is_a_pair(tmp_path):
  """4 PNG and 20 AVIF with captions: none of them becomes text alone in silence."""
  for n in range(24):
    shown = Image.new('RGB', (8, 8), (10 * n, 0, 0))
    shown.save(tmp_path / f'{n}.{"png" if n < 4 else "avif"}')
    (tmp_path / f'{n}.txt').write_text(f'number {n}')
  found = folder.Folder(str(tmp_path))
  assert found.summary().line() == '24 pairs'
  config = image_files.ImagesConfig(4, 4, 'center', smallest=1, most_pixels=100)
  for n in range(len(found)):
    red = image_files.decode(found[n]['image'], config, None)[0, 0, 0]
    assert abs(int(red) - 10 * int(found[n]['key'])) < 6


def test_folders_of_before_keep_their_fingerprint(corpus, picture):
  """It is stored with runs: so many files of the first kinds give the same one."""
  assert folder.Folder(str(corpus)).fingerprint() == source.digest(
    [
      'folder',
      [
        ['deep/owl.PNG', 'deep/story.txt', 'fox.jpg', 'fox.txt'],
        [len(picture), len('Naïve 狐.'.encode()), len(picture), 17],
      ],
    ]
  )
  before = folder.Folder(str(corpus))
  (corpus / 'fox.jpg.txt').write_bytes(b'A fox,\nred.')
  assert folder.Folder(str(corpus)).fingerprint() != before.fingerprint()
  assert len(folder.Folder(str(corpus))) == len(before)


def test_a_changed_folder_has_another_fingerprint(corpus, picture):
  before = folder.Folder(str(corpus)).fingerprint()
  (corpus / 'fox.txt').write_text('Another fox.')
  longer = folder.Folder(str(corpus)).fingerprint()
  (corpus / 'new.png').write_bytes(picture)
  assert len({before, longer, folder.Folder(str(corpus)).fingerprint()}) == 3


def damage(corpus, case):
  """Damages the picture or the text of the fox."""
  image, text = corpus / 'fox.jpg', corpus / 'fox.txt'
  if case == 'empty picture':
    image.write_bytes(b'')
  elif case == 'broken link':
    image.unlink()
    image.symlink_to(corpus / 'nowhere')
  elif case == 'link to a folder':
    text.unlink()
    text.symlink_to(corpus / 'deep', target_is_directory=True)
  elif case == 'text in Latin-1':
    text.write_bytes('caf\xe9'.encode('latin-1'))
  elif case == 'text in UTF-16':
    text.write_bytes('a fox'.encode('utf-16'))
  elif case == 'NUL bytes':
    text.write_bytes(b'a\0fox')
  elif case == 'broken link to text':
    text.unlink()
    text.symlink_to(corpus / 'nowhere')


BROKEN = {
  'empty picture': 'fox.jpg: expected a picture, found .*fox.jpg empty',
  'broken link': 'fox.jpg: expected a readable file, found .*fox.jpg: No such file',
  'text in Latin-1': 'fox.txt: expected text in UTF-8, found byte 0xe9 at 3',
  'text in UTF-16': 'fox.txt: expected text in UTF-8, found byte 0xff at 0',
  'NUL bytes': 'fox.txt: expected text in UTF-8, found a NUL',
  'broken link to text': 'fox.txt: No such file',
}


@pytest.mark.parametrize('case', BROKEN)
def test_broken_records(corpus, case):
  damage(corpus, case)
  found = folder.Folder(str(corpus))
  assert len(found) == 3
  for place in (found, folder.Folder(f'{corpus}/**')):
    with pytest.raises(ValueError, match=BROKEN[case]) as told:
      place[2]
    assert '\n' not in str(told.value)
  assert found[0]['key'] == 'deep/owl'


@pytest.mark.parametrize('content', [b'', b'\r\n', b'\xef\xbb\xbf', b' \n\n '])
def test_an_empty_caption_is_no_mistake(corpus, content):
  (corpus / 'fox.txt').write_bytes(content)
  assert folder.Folder(str(corpus))[2]['text'] == ''


def test_a_folder_called_like_a_picture(corpus, picture):
  (corpus / 'fox.jpg').unlink()
  (corpus / 'fox.jpg').mkdir()
  (corpus / 'fox.jpg' / 'cub.jpg').write_bytes(picture)
  found = folder.Folder(str(corpus))
  assert [found[n]['key'] for n in range(len(found))][2:] == ['fox.jpg/cub', 'fox']
  assert 'image' not in found[3]


def test_what_may_not_be_read(corpus, bucket, forbid):
  shutil.copytree(corpus, bucket / 'corpus')
  found = folder.Folder('gs://bucket/corpus')
  forbid('fox.txt')
  with pytest.raises(ValueError, match='gs://bucket/corpus/fox.txt: Permission denied'):
    found[2]


def test_what_vanishes_later(corpus):
  found = folder.Folder(str(corpus))
  (corpus / 'fox.jpg').unlink()
  with pytest.raises(ValueError, match='fox.jpg: No such file'):
    found[2]


def test_no_pictures_and_no_text(tmp_path):
  (tmp_path / 'a.md').write_text('x')
  for path in (tmp_path, tmp_path / 'none'):
    with pytest.raises(ValueError, match='expected'):
      folder.Folder(str(path))
