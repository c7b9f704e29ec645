"""Files of encoded records: what is in them, whatever was broken, stopped or odd."""

import logging
import os
from concurrent import futures

import numpy as np
import pytest

from transfusion_jax.core import log
from transfusion_jax.data.images import image_files
from transfusion_jax.data.latents import encoding
from transfusion_jax.data.sources import array_record, source

SIZE = image_files.ImagesConfig(4, 6, 'center', smallest=1, most_pixels=10**6)
SPOILT = b'\x89PNG no picture'


class Some:
  """Records in a list; a ValueError among them is raised."""

  def __init__(self, records):
    self._records = records

  def __len__(self):
    return len(self._records)

  def __getitem__(self, index):
    if isinstance(self._records[index], ValueError):
      raise self._records[index]
    return self._records[index]

  def name(self, index):
    return f'record {index}'

  def fingerprint(self):
    return source.digest(len(self))

  def summary(self):
    return source.Summary(len(self))


class Colours:
  """Encodes a picture as the colour of its first pixel; counts and remembers."""

  def __init__(self, factor=1.0):
    self.factor, self.shapes = factor, []

  def __call__(self, pixels):
    self.shapes.append(pixels.shape)
    with np.errstate(over='ignore'):
      return (self.factor * pixels[:, :1, :1]).astype(np.float16)


def picture(colour):
  return image_files.encode_png(np.full((8, 12, 3), colour, np.uint8))


def moments(colour):
  return np.full((1, 1, 3), colour, np.float16)


def write(folder, records, *, files=1, only=None, broken=0.0, encode=None, **options):
  told = []
  options = {'fields': ('image',), 'batch': 4, **options}
  with futures.ThreadPoolExecutor(3) as pool:
    encoder = encoding.Encoder(
      name='some',
      records=Some(records),
      pictures=SIZE,
      encode=encode or Colours(),
      broken=broken,
      pool=pool,
      **options,
    )
    for number in range(files) if only is None else only:
      encoder.write(str(folder / 'some'), number, files, told.append)
  return sum(told)


def read(folder):
  found = array_record.ArrayRecord(str(folder), '')
  return [found[k] for k in range(len(found))]


def same(found, expected):
  assert len(found) == len(expected)
  for one, other in zip(found, expected, strict=True):
    assert one.keys() == other.keys()
    for name, value in one.items():
      np.testing.assert_equal(value, other[name])


def captioned(count):
  return [{'key': str(k), 'text': f'a {k}', 'image': picture(k)} for k in range(count)]


def encoded(records):
  return [record | {'image': moments(int(record['key']))} for record in records]


@pytest.mark.parametrize(('files', 'batch'), [(1, 4), (3, 5), (3, 64), (30, 1)])
def test_every_record_is_there_in_order_with_its_own_latents(tmp_path, files, batch):
  records, encode = captioned(23), Colours()
  told = write(tmp_path, records, files=files, batch=batch, encode=encode)
  assert told == 23
  assert set(encode.shapes) == {(batch, 4, 6, 3)}
  same(read(tmp_path), encoded(records))
  found = read(tmp_path)[0]['image']
  assert found.dtype == np.float16


def test_files_do_not_depend_on_each_other(tmp_path):
  records = captioned(23)
  write(tmp_path / 'whole', records, files=4)
  for only in ([3], [0, 2], [1]):
    write(tmp_path / 'shared', records, files=4, only=only)
  for name in sorted(os.listdir(tmp_path / 'whole')):
    one, other = (tmp_path / part / name for part in ('whole', 'shared'))
    assert one.read_bytes() == other.read_bytes()


def test_lists_and_fields_of_several_pictures(tmp_path):
  records = [
    {'image': [picture(1), None, picture(2)], 'text': [None, 'a', None]},
    {'image': [None, None], 'text': ['a', 'b'], 'n': 7, 'result': picture(3)},
    {'image': [], 'text': [], 'result': b''},
    {'image': None, 'text': 'alone'},
    {'text': 'without'},
    {'image': [picture(4) for _ in range(9)], 'result': picture(5)},
  ]
  write(tmp_path, records, fields=('image', 'result'))
  same(
    read(tmp_path),
    [
      records[0] | {'image': [moments(1), None, moments(2)]},
      records[1] | {'result': moments(3)},
      *({**records[2], 'result': b''}, records[3], records[4]),
      {'image': [moments(4)] * 9, 'result': moments(5)},
    ],
  )


def test_broken_records_are_left_out_and_named(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(log.logger, 'propagate', True)
  records = captioned(12)
  expected = [record for k, record in enumerate(encoded(records)) if k not in (0, 5, 8)]
  records[0] = ValueError('record 0: gone')
  records[5]['image'] = SPOILT
  records[8]['image'] = 'b.png'
  with caplog.at_level(logging.INFO):
    assert write(tmp_path, records, files=2) == 12
  same(read(tmp_path), expected)
  assert 'some: left out: record 0: gone' in caplog.text
  assert 'record 5: expected a readable picture' in caplog.text
  assert "record 8: expected the bytes of a picture in ('image',), found str" in (
    caplog.text
  )


def test_too_many_broken_records_end_it_and_leave_no_file(tmp_path):
  records = [{'image': SPOILT}] * 100
  with pytest.raises(ValueError, match=r'at most 10.00% broken .*data.sources.some'):
    write(tmp_path, records, broken=0.1)
  assert os.listdir(tmp_path) == []
  write(tmp_path, records, broken=1.0)
  with pytest.raises(ValueError, match='expected at least one record'):
    read(tmp_path)


@pytest.mark.parametrize(
  ('record', 'encode', 'message'),
  [
    ({'image': picture(200)}, Colours(1000.0), 'within 65,504'),
    ({'image': picture(2)}, Colours(np.nan), 'within 65,504'),
    ({'image': picture(2), 'n': np.float32(1)}, None, 'record 0: .* that can be store'),
    ({'image': moments(2)}, None, None),
  ],
)
def test_what_cannot_be_stored(tmp_path, record, encode, message):
  if message is None:  # latents once more: broken, one by one
    write(tmp_path, [record, {'text': 'a'}], encode=encode)
    assert read(tmp_path) == [{'text': 'a'}]
    return
  with pytest.raises(ValueError, match=message):
    write(tmp_path, [record], encode=encode)
  assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_is_swept_away(tmp_path):
  left = tmp_path / '.some-00001-of-00002.array_record.12345'
  other = tmp_path / '.some-00000-of-00002.array_record.12345'
  for path in (left, other):
    path.write_bytes(b'half')
  write(tmp_path, captioned(4), files=2, only=[1])
  assert not left.exists()
  assert other.exists()


def test_a_picture_that_does_not_fit_is_found_at_once():
  def refuse(pixels):
    raise ValueError(f'expected sides that divide by 8, found {pixels.shape}')

  with futures.ThreadPoolExecutor(1) as pool:
    encoder = encoding.Encoder('some', Some([]), (), SIZE, refuse, 4, 0.0, pool)
    with pytest.raises(ValueError, match=r'found \(4, 4, 6, 3\)'):
      encoder.try_out()


def check(records, **options):
  options = {'fields': ('image',), 'batch': 4, 'broken': 0.0, **options}
  with futures.ThreadPoolExecutor(1) as pool:
    encoding.Encoder(
      'some', Some(records), pictures=SIZE, encode=Colours(), pool=pool, **options
    ).check()


@pytest.mark.parametrize('value', [None, '', b'', [], [None, b'']])
def test_nothing_to_encode_is_found_first(value):
  records = [{'text': 'a', 'image': value}] * 500
  with pytest.raises(ValueError, match=r"images in data.sources.some, .*'image'.*; "):
    check(records)
  check([{'text': 'a', 'image': [b'', picture(3)]}, *records[:200]])


def test_why_nothing_can_be_encoded_is_said():
  with pytest.raises(
    ValueError, match='found none in 9 of its records, the last: no d'
  ):
    check([ValueError('no disk')] * 9)
