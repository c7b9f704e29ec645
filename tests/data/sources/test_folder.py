"""A folder of `name.jpg` and `name.txt`, good and damaged."""

import shutil

import pytest

from transfusion_jax.data.sources import folder


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
