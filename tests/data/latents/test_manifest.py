"""Stored latents are found, and found to be those of a run or not."""

import dataclasses
import json
import os

import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.data import pipeline
from transfusion_jax.data.images import image_files
from transfusion_jax.data.latents import manifest as manifest_lib
from transfusion_jax.data.sources import array_record

MANIFEST = manifest_lib.Manifest('0123', 32, 32, ['image'], 'abcd', files=1)


@pytest.fixture
def latents(tmp_path):
  """A folder of one record with latents."""
  manifest_lib.claim(str(tmp_path / 'latents'), MANIFEST)
  store(tmp_path / 'latents', {'image': np.zeros((4, 4, 8), np.float16), 'text': 'a'})
  return tmp_path / 'latents'


def store(folder, record):
  with array_record.Writer(str(folder / 'some'), 0, 1) as writer:
    writer.write(record)


def of(data, *, moments=True, height=32, **sources):
  size = image_files.ImagesConfig(height, 32, 'center', smallest=1, most_pixels=10**8)
  return dataclasses.replace(data, moments=moments, images=size, sources=sources)


def stored(path, form='captioned'):
  return formed(tiny.source('array_record', str(path)), form)


def formed(source, kind):
  return dataclasses.replace(source, form=dataclasses.replace(source.form, kind=kind))


def refused(config, message):
  with pytest.raises(ValueError, match=message):
    manifest_lib.check(config)


def test_a_folder_is_claimed_once(tmp_path):
  folder = str(tmp_path / 'deep' / 'latents')
  manifest_lib.claim(folder, MANIFEST)
  manifest_lib.claim(folder, MANIFEST)
  assert os.listdir(folder) == ['encoded.json']
  other = dataclasses.replace(MANIFEST, autoencoder='4567', height=64)
  with pytest.raises(ValueError) as error:
    manifest_lib.claim(folder, other)
  assert "autoencoder: expected '0123', found '4567'" in str(error.value)
  assert 'height: expected 32, found 64' in str(error.value)


def test_elsewhere(data, tmp_path):
  """In a bucket, for which a folder in memory stands."""
  folder = f'memory://{tmp_path}/latents'
  for _ in range(2):
    manifest_lib.claim(folder, MANIFEST)
  with array_record.Writer(f'{folder}/some', 0, 1) as writer:
    writer.write({'image': b''})
  config = of(data, a=stored(folder))
  manifest_lib.check(config)
  with pytest.raises(ValueError, match='those of 0123 in memory://.*/latents;'):
    manifest_lib.check_autoencoder(config, '4567')


def test_a_folder_of_others_is_not_taken(tmp_path):
  store(tmp_path, {'image': b''})
  with pytest.raises(ValueError, match='new or to hold encoded.json, found files of r'):
    manifest_lib.claim(str(tmp_path), MANIFEST)
  assert not (tmp_path / 'encoded.json').exists()


def test_latents_are_taken_where_they_are_wanted(data, latents):
  config = of(
    data,
    a=stored(latents),
    b=stored(f'{latents}/some-*', 'picture'),
    text=formed(tiny.source('json_lines', 'nowhere'), 'text'),
  )
  manifest_lib.check(config)
  manifest_lib.check_autoencoder(config, '0123')
  with pytest.raises(ValueError, match='of the run, 4567, .*those of 0123 in'):
    manifest_lib.check_autoencoder(config, '4567')


def test_latents_are_refused_where_they_do_not_belong(data, latents, tmp_path):
  refused(of(data, a=stored(latents), moments=False), 'pictures in data.sources.a, fou')
  refused(of(data, a=stored(latents), height=64), 'of 64 x 32 .* found 32 x 32 in')
  edit = stored(latents, 'edit')
  refused(of(data, a=edit), r"fields \['image', 'result'\] .* in \['image'\]")
  store(tmp_path / 'bare', {'image': b''})
  refused(of(data, a=stored(tmp_path / 'bare')), 'expected encoded.json beside .* none')
  refused(of(data, a=stored(tmp_path)), 'none in .*bare')  # and in the other is one
  folder = tiny.source('folder', str(tmp_path))
  refused(of(data, a=folder), "array_record'.*data.moments=true, found 'folder'")
  refused(of(data, a=tiny.source('emoji_scenes')), "found 'emoji_scenes'")
  random = dataclasses.replace(data.images, crop='random')
  config = dataclasses.replace(of(data, a=stored(latents)), images=random)
  refused(config, "crop='center' with data.moments=true, found 'random'")
  manifest_lib.check(of(data, a=stored(tmp_path / 'bare'), moments=False))


@pytest.mark.parametrize(
  ('name', 'crop', 'message'),
  [
    ('other', 'center', r"data.sources with pictures, \['a', 'b'\], found 'other'"),
    ('text', 'center', "found 'text'"),
    ('a', 'random', "crop='center', found 'random'"),
    ('b', 'center', 'expected pictures in data.sources.b, found latents'),
  ],
)
def test_what_is_not_to_be_encoded(data, latents, tmp_path, name, crop, message):
  text = formed(tiny.source('folder', str(tmp_path)), 'text')
  sources = {'a': tiny.source('folder', 'x'), 'b': stored(latents), 'text': text}
  config = dataclasses.replace(
    of(data, moments=False, **sources),
    images=dataclasses.replace(data.images, crop=crop),
  )
  with pytest.raises(ValueError, match=message):
    manifest_lib.check_source(config, name)


@pytest.mark.parametrize('content', ['{', '[]', '{}', '{"height": 1, "depth": 2}'])
def test_a_spoilt_manifest_is_told_of(data, latents, content):
  (latents / 'encoded.json').write_text(content)
  refused(of(data, a=stored(latents)), 'encoded.json as encode_images writes it')


def test_what_slips_through_is_a_broken_document_in_one_line(data, latents, tmp_path):
  """A field that is bytes in some records, or pictures of before in a folder of now."""
  store(
    tmp_path / 'bare',
    {'image': image_files.encode_png(np.zeros((32, 32, 3), np.uint8))},
  )
  tokens = dataclasses.replace(data.tokenizer, kind='bytes')
  for path, moments, message in (
    (latents, False, r'found float16\[4, 4, 8\]; .* or set data.moments=true'),
    (tmp_path / 'bare', True, 'expected latents from encode_images .* found bytes'),
  ):
    config = of(data, a=stored(path), moments=moments)
    config = dataclasses.replace(config, tokenizer=tokens)
    batches = pipeline.batches(
      config, patches=4, image_shape=(4, 4, 8), seed=0, rows=range(4)
    )
    with pytest.raises(ValueError, match=message):
      next(batches)


@pytest.mark.parametrize(
  'text',
  [
    *('', '[]', '5', 'null', '{}', '[' * 999, '{"autoencoder": "0123"}', '\xff'),
    *(
      json.dumps(dataclasses.asdict(MANIFEST) | changed)
      for changed in (
        {'fields': 5},
        {'fields': [5]},
        {'fields': 'image'},
        {'height': '32'},
        {'height': True},
        {'autoencoder': None},
        {'more': 1},
      )
    ),
  ],
)
def test_what_is_no_manifest_is_one_line(data, latents, text):
  (latents / 'encoded.json').write_text(text, encoding='latin-1')
  with pytest.raises(ValueError) as error:
    manifest_lib.check(of(data, a=stored(latents)))
  assert str(error.value).startswith(
    f'expected {latents}/encoded.json as encode_images'
  )
  assert len(str(error.value).splitlines()) == 1


def test_a_manifest_may_begin_with_a_byte_order_mark(data, latents):
  manifest = latents / 'encoded.json'
  manifest.write_bytes(b'\xef\xbb\xbf' + manifest.read_bytes())
  manifest_lib.check(of(data, a=stored(latents)))
