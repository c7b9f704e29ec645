"""TFDS data sets made here, and mock data of real ones; TensorFlow is not there."""

import importlib
import json
import pathlib
import sys
import types

import numpy as np
import pytest

tfds = pytest.importorskip('tensorflow_datasets')

from transfusion_jax.data.sources import tfds as source  # noqa: E402

EXAMPLES = 6


class Made(tfds.core.GeneratorBasedBuilder):
  """Features of every kind, as real data sets have them."""

  name = 'made'
  VERSION = tfds.core.Version('1.2.0')
  picture = b''

  def _info(self):
    features = tfds.features
    return tfds.core.DatasetInfo(
      builder=self,
      disable_shuffling=True,
      features=features.FeaturesDict(
        {
          'image': features.Image(shape=(4, 4, 3)),
          'frames': features.Sequence(features.Image(shape=(4, 4, 3))),
          'text': features.Text(),
          'captions': features.Sequence({'text': np.str_, 'id': np.int64}),
          'tags': features.Sequence(features.Text()),
          'label': features.ClassLabel(names=['cat', 'fox']),
          'objects': features.Sequence(
            {
              'label': features.ClassLabel(names=['ear', 'tail']),
              'box': features.BBoxFeature(),
              'seen': np.bool_,
            }
          ),
          'talk': features.Dataset({'said': features.Text(), 'icon': features.Image()}),
          'raw': features.Tensor(shape=(), dtype=np.object_),
          'vector': features.Tensor(shape=(3,), dtype=np.float32),
          'deep': {'er': {'score': np.float32}},
          'image/id': np.int64,
        }
      ),
    )

  def _split_generators(self, dl_manager):
    return {
      'train': self._generate_examples(EXAMPLES),
      'test': self._generate_examples(1),
    }

  def _generate_examples(self, count):
    for n in range(count):
      box = tfds.features.BBox(0.0, 0.25, 0.5, 1.0)
      yield (
        n,
        {
          'image': self.picture,
          'frames': [self.picture] * (n % 3),
          'text': f'狐 {n}',
          'captions': [{'text': f'a fox {n}', 'id': k} for k in range(n % 3)],
          'tags': ['a', 'b'][: n % 3],
          'label': n % 2,
          'objects': [{'label': 'tail', 'box': box, 'seen': True}] * (n % 3),
          'talk': [{'said': f'well {k}', 'icon': self.picture} for k in range(n % 3)],
          'raw': b'\xff\xfe',
          'vector': np.asarray([1, 2, 3], np.float32),
          'deep': {'er': {'score': 0.5}},
          'image/id': n,
        },
      )


@pytest.fixture(scope='module')
def folder(tmp_path_factory, picture):
  path = tmp_path_factory.mktemp('tfds')
  Made.picture = picture
  Made(data_dir=str(path), file_format='array_record').download_and_prepare()
  return path


def test_records(folder, picture, check_contract):
  found = source.Tfds('made', 'train', str(folder))
  assert len(found) == EXAMPLES
  expected = {
    'image': picture,
    'frames': [picture],
    'text': '狐 1',
    'captions.text': ['a fox 1'],
    'captions.id': [0],
    'tags': ['a'],
    'label': 1,
    'label_name': 'fox',
    'objects.label': [1],
    'objects.label_name': ['tail'],
    'objects.box': [[0.0, 0.25, 0.5, 1.0]],
    'objects.seen': [True],
    'talk.said': ['well 0'],
    'talk.icon': [picture],
    'raw': b'\xff\xfe',
    'vector': [1.0, 2.0, 3.0],
    'deep.er.score': 0.5,
    'image/id': 1,
  }
  assert found[1] == expected
  assert {name: type(value) for name, value in found[1].items()} == {
    name: type(value) for name, value in expected.items()
  }
  assert found[0]['captions.text'] == found[0]['frames'] == []
  assert found.name(1) == 'made/1.2.0[train]: example 1'
  again = source.Tfds('', 'train', str(folder / 'made' / '1.2.0'))
  check_contract(found, again)
  assert 'tensorflow' not in sys.modules


def test_splits(folder):
  part = source.Tfds('made:1.2.0', 'train[50%:]', str(folder))
  assert [part[index]['image/id'] for index in range(len(part))] == [3, 4, 5]
  both = source.Tfds('made', 'train+test', str(folder))
  assert len(both) == EXAMPLES + 1
  whole = source.Tfds('made', 'train', str(folder))
  assert len({each.fingerprint() for each in (part, both, whole)}) == 3


CODE = {
  'coco_captions': 'object_detection.coco_captions',
  'imagenet2012': None,
  'c4/en': 'text.c4',
  'wikipedia/20230601.en': 'text.wikipedia',
}
FIELDS = {
  'coco_captions': {
    'image': np.ndarray,
    'captions.text': list,
    'captions.id': list,
    'objects.label': list,
    'objects.label_name': list,
    'objects.bbox': list,
    'image/id': int,
    'image/filename': str,
  },
  'imagenet2012': {'image': np.ndarray, 'label': int, 'label_name': str},
  'c4/en': {'text': str, 'url': str, 'timestamp': str},
  'wikipedia/20230601.en': {'title': str, 'text': str},
}


@pytest.mark.parametrize('name', FIELDS)
def test_mock_data_of_real_data_sets(name, tmp_path, monkeypatch):
  """Their own features, as their own code says, and random values of these."""
  if CODE[name]:
    importlib.import_module(f'tensorflow_datasets.{CODE[name]}')
  if name == 'coco_captions':  # its code wants two names of TensorFlow's
    code = importlib.import_module('tensorflow_datasets.object_detection.coco')
    monkeypatch.setattr(
      code, 'tf', types.SimpleNamespace(int64=np.int64, bool=np.bool_)
    )
  write_metadata(name, str(tmp_path))
  policy = tfds.testing.MockPolicy.USE_FILES
  with tfds.testing.mock_data(num_examples=3, data_dir=str(tmp_path), policy=policy):
    found = source.Tfds(name, 'train', str(tmp_path))
    assert len(found) == 3
    for index in range(3):
      record = found[index]
      for field, kind in FIELDS[name].items():
        assert type(record[field]) is kind
    if name == 'coco_captions':
      assert {type(each) for each in record['captions.text']} == {str}
    if name == 'imagenet2012':
      assert record['label_name'].startswith('n')
  assert 'tensorflow' not in sys.modules
  with pytest.raises(ValueError, match='example 0: expected a sound example'):
    source.Tfds(name, 'train', str(tmp_path))[0]  # there are no files


def write_metadata(name, folder):
  """What TFDS writes beside the examples of a data set."""
  name, _, config = name.partition('/')
  options = {'config': config} if config else {}
  builder = tfds.builder_cls(name)(
    data_dir=folder, file_format='array_record', **options
  )
  template = tfds.core.ShardedFileTemplate(
    data_dir=builder.data_path,
    dataset_name=name,
    split='train',
    filetype_suffix='array_record',
  )
  split = tfds.core.SplitInfo(
    name='train', shard_lengths=[3], num_bytes=9, filename_template=template
  )
  builder.info.set_splits(tfds.core.SplitDict([split]))
  pathlib.Path(builder.data_dir).mkdir(parents=True)
  builder.info.write_to_directory(builder.data_dir)


BAD = {
  'no such name': (('nope', 'train', ''), "the TFDS data set 'nope' in .*found none"),
  'no such version': (('made:9.9.9', 'train', ''), "'made:9.9.9' in .*found none"),
  'no such split': (('made', 'dev', ''), r"among \['test', 'train'\], found 'dev'"),
  'bad slice': (('made', 'train[a:b]', ''), r"'train\[a:b\]' of made"),
  'an empty slice': (('made', 'train[:0]', ''), r"'train\[:0\]' of made"),
  'not one data set': (('', 'train', ''), 'one TFDS data set in'),
  'no folder': (('', 'train', '/none'), 'one TFDS data set in .*/none'),
}


@pytest.mark.parametrize('case', BAD)
def test_what_cannot_be_opened(folder, case):
  (name, split, below), message = BAD[case]
  with pytest.raises(ValueError, match=message) as told:
    source.Tfds(name, split, f'{folder}{below}')
  assert '\n' not in str(told.value)


def test_neither_name_nor_directory(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(
    ValueError, match='one TFDS data set in the usual place, found none'
  ):
    source.Tfds('', 'train', '')


def test_the_home_folder_is_known(folder, monkeypatch):
  monkeypatch.setenv('HOME', str(folder.parent))
  assert len(source.Tfds('made', 'train', f'~/{folder.name}')) == EXAMPLES


def test_a_bucket_is_refused():
  with pytest.raises(ValueError, match="on this machine, found data_dir='gs://b'"):
    source.Tfds('made', 'train', 'gs://b')


@pytest.fixture
def copied(folder, tmp_path):
  """The train split, to be damaged."""
  target = tmp_path / 'made' / '1.2.0'
  target.mkdir(parents=True)
  for path in (folder / 'made' / '1.2.0').iterdir():
    (target / path.name).write_bytes(path.read_bytes())
  return tmp_path


def test_tfrecord_is_one_clear_line(copied):
  path = copied / 'made' / '1.2.0' / 'dataset_info.json'
  info = json.loads(path.read_text())
  info['fileFormat'] = 'tfrecord'
  path.write_text(json.dumps(info).replace('array_record', 'tfrecord'))
  with pytest.raises(ValueError, match='as ArrayRecord in .*cannot be read at') as told:
    source.Tfds('made', 'train', str(copied))
  assert '\n' not in str(told.value)


@pytest.mark.parametrize('content', ['', '{', '[]', '{"name": 1}', 'caf\udce9'])
def test_damaged_metadata(copied, content):
  path = copied / 'made' / '1.2.0' / 'dataset_info.json'
  path.write_text(content, errors='surrogateescape')
  with pytest.raises(ValueError, match='expected') as told:
    source.Tfds('made', 'train', str(copied))
  assert '\n' not in str(told.value)


@pytest.mark.parametrize('content', ['', '{', '[]', '{"a": 1}'])
def test_damaged_features(copied, content):
  path = copied / 'made' / '1.2.0' / 'features.json'
  path.write_text(content)
  with pytest.raises(ValueError, match='expected') as told:
    source.Tfds('made', 'train', str(copied))
  assert '\n' not in str(told.value)


@pytest.mark.parametrize('damage', ['missing', 'empty', 'half', 'noise'])
def test_damaged_examples(copied, damage):
  [path] = (copied / 'made' / '1.2.0').glob('*train*')
  data = path.read_bytes()
  if damage == 'missing':
    path.unlink()
  else:
    noise = np.random.default_rng(0).bytes(len(data))
    path.write_bytes({'empty': b'', 'half': data[:70_000], 'noise': noise}[damage])
  found = source.Tfds('made', 'train', str(copied))
  with pytest.raises(ValueError, match='example 0: expected a sound example') as told:
    found[0]
  assert '\n' not in str(told.value)
