"""Tests of `core.paths`."""

import os
import pathlib

import pytest

from transfusion_jax.core import paths


def test_home_and_relative_paths_become_whole(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  assert paths.local('~/w', '--workdir') == tmp_path / 'w'
  assert paths.local('a/../w', '--workdir') == tmp_path / 'w'
  assert paths.anywhere('~/w', 'path') == str(tmp_path / 'w')
  assert paths.anywhere('w/*.tar', 'path') == str(tmp_path / 'w' / '*.tar')


@pytest.mark.parametrize(
  'url',
  [
    *('gs://b/run', 's3://b', 'memory://x', 'zip::gs://a/b', 'gs:b/run', 'https:x'),
    *('file://host/x', 'file:x'),
  ],
)
def test_a_url_is_refused_where_a_folder_is_made_and_kept_where_it_is_read(url):
  with pytest.raises(ValueError, match=r'on this machine for --workdir, found'):
    paths.local(url, '--workdir')
  assert paths.anywhere(url, 'path') == url


@pytest.mark.parametrize(
  'name', ['C: drive', 'a:b/c', 'ratio 1::2', '2024-01-01T10:30']
)
def test_a_colon_alone_makes_no_url(name):
  assert paths.local(name, '--workdir') == pathlib.Path(os.getcwd(), name)


def test_names_that_no_file_can_have_are_refused():
  for name in ('a\0b', os.fsdecode(b'caf\xe9')):
    with pytest.raises(ValueError, match=r'expected a path for --workdir'):
      paths.local(name, '--workdir')
  with pytest.raises(ValueError, match=r'found none'):
    paths.local('', '--workdir')
  with pytest.raises(ValueError, match=r'no user of that name'):
    paths.local('~nobody-of-this-name/w', '--workdir')


def test_a_url_of_a_local_file_is_its_path():
  assert paths.local('file:///a/b', '--workdir') == pathlib.Path('/a/b')
  assert paths.anywhere('file:///a/b', 'path') == '/a/b'


def test_files_of_packages_stay_as_they_are():
  assert paths.anywhere('package:a/b.txt', 'path') == 'package:a/b.txt'
  with pytest.raises(ValueError, match='on this machine'):
    paths.local('package:a/b.txt', '--workdir')
  assert paths.anywhere('', 'path') == ''
