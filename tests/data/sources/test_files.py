"""Places on this machine, in a bucket and in memory; what cannot be read says so."""

import importlib
import os
import pathlib

import fsspec
import pytest

from transfusion_jax.data.sources import files


def write(folder, *names, content=b'0123456789'):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def test_folders_files_and_patterns(tmp_path, monkeypatch):
  write(tmp_path, 'a-2.x', 'a-1.X', 'b-1.x', 'deep/a-1.x', '.hidden.x', '.h/a.x', 'a.y')
  found = files.find(str(tmp_path), ('.x',))
  assert found.names == ('a-1.X', 'a-2.x', 'b-1.x', 'deep/a-1.x')
  assert found.sizes == (10,) * 4
  assert files.find(f'{tmp_path}/', ('.x',)).listing() == found.listing()
  assert files.find(f'{tmp_path}/a-*', ('.x',)).names == ('a-1.X', 'a-2.x')
  assert files.find(f'{tmp_path}/*/a-?.x', ('.x',)).names == ('deep/a-1.x',)
  assert files.find(f'{tmp_path}/a-2.x', ('.x',)).names == ('a-2.x',)
  monkeypatch.setenv('HOME', str(tmp_path))
  assert files.find('~/deep', ('.x',)).path(0) == f'{tmp_path}/deep/a-1.x'
  monkeypatch.chdir(tmp_path)
  assert files.find('deep', ('.x',)).path(0) == f'{tmp_path}/deep/a-1.x'


def test_names_that_look_like_patterns_are_names(tmp_path):
  write(tmp_path, 'set[1]/a.x', 'set1/b.x')
  assert files.find(f'{tmp_path}/set[1]', ('.x',)).names == ('a.x',)


def test_linked_folders_are_entered_once(tmp_path):
  write(tmp_path, 'data/a.x', 'other/b.x')
  (tmp_path / 'data' / 'more').symlink_to(tmp_path / 'other')
  (tmp_path / 'other' / 'back').symlink_to(tmp_path / 'data')
  assert files.find(f'{tmp_path}/data', ('.x',)).names == ('a.x', 'more/b.x')
  (tmp_path / 'data' / 'up').symlink_to(tmp_path)
  names = ('a.x', 'more/b.x', 'up/other/b.x')
  assert files.find(f'{tmp_path}/data', ('.x',)).names == names


def test_what_is_no_file_is_left_out(tmp_path):
  write(tmp_path, 'a.x')
  (tmp_path / 'b.x').mkdir()
  os.mkfifo(tmp_path / 'c.x')
  assert files.find(str(tmp_path), ('.x',)).names == ('a.x',)


def test_a_link_to_itself_is_one_broken_file(tmp_path):
  write(tmp_path, 'a.x')
  (tmp_path / 'b.x').symlink_to('b.x')
  (tmp_path / 'c.x').symlink_to('d.x')
  (tmp_path / 'd.x').symlink_to('c.x')
  found = files.find(str(tmp_path), ('.x',))
  assert found.names == ('a.x', 'b.x', 'c.x', 'd.x')
  assert found.read(0) == b'0123456789'
  for number in (1, 2, 3):
    for use in (found.read, found.open):
      with pytest.raises(ValueError, match=r'[bcd].x: Too many levels of symbolic'):
        use(number)
  with pytest.raises(ValueError, match='found a link to nothing'):
    files.find(f'{tmp_path}/b.x', ('.x',))


def test_what_turns_into_a_pipe_or_a_device(tmp_path):
  """Whatever the listing said: nobody waits, and nothing is read without an end."""
  write(tmp_path, 'a.x', 'b.x')
  found = files.find(f'{tmp_path}/*', ('.x',))
  for name in ('a.x', 'b.x'):
    (tmp_path / name).unlink()
  os.mkfifo(tmp_path / 'a.x')
  (tmp_path / 'b.x').symlink_to('/dev/zero')
  for number in (0, 1):
    for use in (found.read, found.open):
      with pytest.raises(ValueError, match=r'a regular file, found .*\.x, a pipe'):
        use(number)


def test_a_file_too_large(tmp_path, monkeypatch):
  write(tmp_path, 'a.x')
  monkeypatch.setattr(files, 'MOST_BYTES', 9)
  found = files.find(str(tmp_path), ('.x',))
  with pytest.raises(ValueError, match='at most 9 bytes, found .*a.x with more'):
    found.read(0)
  assert found.read(0, 1) == b'123456789'


def test_what_is_passed_over_is_counted(tmp_path):
  write(tmp_path, 'a.x', 'b.Y', 'c.y', 'deep/README', '.hidden', '.h/a.x')
  found = files.find(str(tmp_path), ('.x',))
  assert found.passed == {'.y': 2, 'without an ending': 1}
  assert files.find(str(tmp_path), ('/readme',)).names == ('deep/README',)
  assert files.find(str(tmp_path), ('.z',), ('.y',)).names == ('b.Y', 'c.y')


@pytest.mark.parametrize('place', ['here', 'bucket', '**'])
def test_work_directories_of_runs_are_left_out(tmp_path, bucket, place):
  """A run that writes samples beside its own pictures finds the same pictures again."""
  root = bucket if place == 'bucket' else tmp_path / 'data'
  path = {'here': str(root), 'bucket': 'gs://bucket', '**': f'{root}/**'}[place]
  write(root, 'a.x', 'deep/b.x', 'deep/config.json', 'ours/checkpoints/c.x')
  before = files.find(path, ('.x',)).listing()
  write(root, 'deep/run/config.json', 'deep/run/contents.json', 'deep/run/samples/1.x')
  write(root, 'deep/run/autoencoder/config.json', 'deep/run/autoencoder/contents.json')
  write(root, 'other/config.json', 'other/checkpoints/7/1.x')
  found = files.find(path, ('.x',))
  assert found.names == ('a.x', 'deep/b.x', 'ours/checkpoints/c.x')
  assert found.listing() == before
  assert found.passed[files.RUNS] == 2
  if place == 'here':  # who names it, means it
    assert files.find(f'{path}/deep/run', ('.x',)).names == ('samples/1.x',)
    assert files.find(f'{path}/deep/run/samples/*.x', ('.x',)).names == ('1.x',)


def test_bytes_of_a_range(tmp_path):
  write(tmp_path, 'a.x')
  found = files.find(str(tmp_path), ('.x',))
  assert found.read(0) == b'0123456789'
  assert found.read(0, 3) == b'3456789'
  assert found.read(0, 3, 5) == b'34'
  with pytest.raises(ValueError, match='a.x to hold bytes 8 to 12, found 2 of these 4'):
    found.read(0, 8, 12)


def test_a_file_beside(tmp_path):
  write(tmp_path, 'list/a.x', 'list/pictures/b', 'secret', 'list/empty')
  (tmp_path / 'list' / 'empty').write_bytes(b'')
  found = files.find(f'{tmp_path}/list/a.x', ('.x',))
  for name in ('pictures/b', './pictures/../pictures/b', f'{tmp_path}/list/pictures/b'):
    assert found.read_beside(0, name) == b'0123456789'
  for name in ('../secret', f'{tmp_path}/secret', 'pictures/../../secret', '', '.'):
    with pytest.raises(ValueError, match=f'a file below {tmp_path}/list, found'):
      found.read_beside(0, name)
  for name in ('none', 'pictures', 'pictures/b/c', 'a\0b', 'a' * 5000, 'gs://bucket/a'):
    with pytest.raises(ValueError):
      found.read_beside(0, name)
  with pytest.raises(ValueError, match='list/empty empty'):
    found.read_beside(0, 'empty')


@pytest.mark.parametrize('place', ['gs://bucket', 'memory:///bucket'])
def test_elsewhere(tmp_path, bucket, place):
  system = fsspec.filesystem(place.partition(':')[0])
  for name in ('a.x', 'deep/b.x'):
    system.pipe_file(f'{place}/{name}', b'0123456789')
  found = files.find(place, ('.x',))
  assert found.names == ('a.x', 'deep/b.x')
  assert found.path(1) == f'{place}/deep/b.x'
  assert found.read(1, 2, 4) == b'23'
  assert found.read_beside(0, 'deep/b.x') == b'0123456789'
  with found.open(1) as stream:
    assert stream.read() == b'0123456789'
  assert files.find(f'{place}/*/b.x', ('.x',)).names == ('deep/b.x',)
  assert found.map(found.read) == [b'0123456789'] * 2
  copies = str(tmp_path / 'copies')
  one = found.copy(1, copies)
  assert pathlib.Path(one).read_bytes() == b'0123456789'
  assert found.copy(1, copies) == one
  assert os.listdir(copies) == [os.path.basename(one)]
  if place.startswith('memory'):  # which knows when a file was written
    system.pipe_file(f'{place}/deep/b.x', b'9876543210')
    assert pathlib.Path(found.copy(1, copies)).read_bytes() == b'9876543210'
  with pytest.raises(ValueError, match='expected a folder for copies'):
    found.copy(1, '')
  part = tmp_path / 'part'
  part.write_bytes(b'new')
  files.publish(str(part), f'{place}/new/c.x')
  assert system.cat_file(f'{place}/new/c.x') == b'new'
  assert not part.exists()
  for content in (b'small', b'smaller'):
    assert files.exists(f'{place}/new/d.x') == (content == b'smaller')
    files.write(f'{place}/new/d.x', content)
    assert system.cat_file(f'{place}/new/d.x') == content


def test_a_small_file_is_written_in_one_go(tmp_path):
  path = tmp_path / 'new' / 'a.x'
  for content in (b'small', b'smaller'):
    files.write(str(path), content)
    assert path.read_bytes() == content
  assert os.listdir(tmp_path / 'new') == ['a.x']
  with pytest.raises(ValueError, match='expected a readable file, found .*a.x/b.x'):
    files.write(f'{path}/b.x', b'')


def test_what_may_not_be_read(bucket, forbid):
  write(bucket, 'a.x')
  found = files.find('gs://bucket', ('.x',))
  forbid('a.x')
  for use in (found.read, found.open):
    with pytest.raises(ValueError, match='gs://bucket/a.x: Permission denied; check'):
      use(0)


BAD_PLACES = {
  'nothing there': ('none', 'found nothing at .*none; check the path'),
  'broken link': ('broken', 'found a link to nothing .* at .*broken'),
  'empty folder': ('empty', 'files that end in .x, found none among the 0'),
  'wrong ending': ('deep/b.y', r'found none among the 1 at .* \(1 .y\); check'),
  'pattern of nothing': ('*.z', 'found none among the 0'),
  'compressed': ('packed', 'found c.x.gz at .*packed, .* decompress it'),
  'compressed file': ('packed/c.x.gz', 'decompress it'),
  'below a file': ('a.x/b', 'found nothing'),
}


@pytest.mark.parametrize('case', BAD_PLACES)
def test_bad_places(tmp_path, case):
  path, message = BAD_PLACES[case]
  write(tmp_path, 'a.x', 'deep/b.y', 'packed/c.x.gz')
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'broken').symlink_to(tmp_path / 'nowhere')
  with pytest.raises(ValueError, match=message) as told:
    files.find(f'{tmp_path}/{path}', ('.x',))
  assert '\n' not in str(told.value)


@pytest.mark.parametrize('scheme', ['gs', 's3'])
def test_a_missing_package_is_one_line(monkeypatch, scheme):
  known = {'class': 'no_such_package.System', 'err': 'Please install it'}
  registry = importlib.import_module('fsspec.registry')
  monkeypatch.setitem(registry.known_implementations, scheme, known)
  with pytest.raises(
    ValueError, match='package that reads .*Please install it'
  ) as told:
    files.find(f'{scheme}://bucket', ('.x',))
  assert '\n' not in str(told.value)


def test_an_unknown_scheme_is_one_line():
  with pytest.raises(ValueError, match='a URL that fsspec knows, found nope://a'):
    files.find('nope://a', ('.x',))
