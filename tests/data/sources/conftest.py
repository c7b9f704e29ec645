"""A bucket that is a folder: what `gs://` is without gcsfs, and a network."""

import importlib
import os
import pathlib
import pickle
from concurrent import futures

import fsspec
import numpy as np
import pytest
from fsspec.implementations import local

from transfusion_jax.data.images import image_files
from transfusion_jax.data.sources import source


class Bucket(fsspec.AbstractFileSystem):
  """Objects of one bucket, kept in the folder `root`; some may not be read."""

  protocol = 'gs'
  cachable = False
  root = ''
  forbidden = ''

  def ls(self, path, detail=True, **kwargs):
    inner = self._strip_protocol(path)
    folder = self._local(path)
    if not os.path.exists(folder):
      raise FileNotFoundError(path)
    if os.path.isfile(folder):
      return [self._info(inner, folder)]
    return [
      self._info(f'{inner}/{name}', os.path.join(folder, name))
      for name in os.listdir(folder)
    ]

  def _info(self, name, path):
    kind = 'directory' if os.path.isdir(path) else 'file'
    return {'name': name, 'size': os.path.getsize(path), 'type': kind}

  def _local(self, path):
    return os.path.join(self.root, self._strip_protocol(path))

  def _open(self, path, mode='rb', **kwargs):
    if self.forbidden and self.forbidden in path:
      raise PermissionError(13, 'Permission denied')
    if 'w' in mode:
      os.makedirs(os.path.dirname(self._local(path)), exist_ok=True)
    return local.LocalFileOpener(self._local(path), mode, fs=self)

  def makedirs(self, path, exist_ok=False):
    pass


@pytest.fixture
def bucket(tmp_path, monkeypatch) -> pathlib.Path:
  """The folder that is `gs://bucket` in a test."""
  registry = importlib.import_module('fsspec.registry')  # hidden by its own content
  monkeypatch.setitem(registry._registry, 'gs', Bucket)
  monkeypatch.setattr(Bucket, 'root', str(tmp_path / 'gs'))
  folder = tmp_path / 'gs' / 'bucket'
  folder.mkdir(parents=True)
  return folder


@pytest.fixture
def forbid(monkeypatch):
  """Makes objects unreadable whose path contains a word."""
  return lambda word: monkeypatch.setattr(Bucket, 'forbidden', word)


@pytest.fixture(scope='session')
def picture() -> bytes:
  """The bytes of a small picture."""
  return image_files.encode_png(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))


@pytest.fixture
def check_contract():
  """Holds a source to what `Source` says of all of them."""

  def check(of: source.Source, again: source.Source):
    assert isinstance(of, source.Source)
    count = len(of)
    expected = [of[index] for index in range(count)]
    elsewhere = pickle.loads(pickle.dumps(of))
    assert elsewhere.fingerprint() == of.fingerprint() == again.fingerprint()
    assert len({of.name(index) for index in range(count)}) == count
    order = np.random.default_rng(0).permutation(np.arange(count).repeat(4)).tolist()
    with futures.ThreadPoolExecutor(8) as pool:
      for one in (of, again, elsewhere):
        read = list(pool.map(one.__getitem__, order))
        for index, record in zip(order, read, strict=True):
          np.testing.assert_equal(record, expected[index])
    with pytest.raises(IndexError):
      of[count]
    with pytest.raises(IndexError):
      of.name(count)
    assert all(
      isinstance(value, (str, int, float, bytes, list, np.ndarray))
      for record in expected
      for value in record.values()
    )

  return check
