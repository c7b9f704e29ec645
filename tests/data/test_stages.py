"""What the data of a run is, stage by stage: who passes over what, and who is told."""

import dataclasses
import json
import logging

import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from configs import base
from tests.support import tiny
from transfusion_jax.core import log
from transfusion_jax.data import corpus, documents, epochs, inspection, pipeline
from transfusion_jax.data.images import image_files
from transfusion_jax.data.sources import source as source_lib
from transfusion_jax.runs import config

PATCHES = 4
SIZE = image_files.ImagesConfig(8, 8, 'random', smallest=1, most_pixels=10**6)


def fill(folder, pairs=0, texts=0, broken=()):
  """Pictures with captions, the broken ones cut off, and texts alone."""
  folder.mkdir(parents=True, exist_ok=True)
  for k in range(pairs):
    pixels = np.random.default_rng(k).integers(0, 256, (9, 12, 3), np.uint8)
    data = image_files.encode_png(pixels)
    (folder / f'{k:03d}.png').write_bytes(data[:60] if k in broken else data)
    (folder / f'{k:03d}.txt').write_text(f'picture {k}')
  for k in range(texts):
    (folder / f'note {k:03d}.txt').write_text(f'a note {k}')
  return str(folder)


def of(data, *, rows=4, **sources):
  words = dataclasses.replace(data.tokenizer, kind='bytes')
  return dataclasses.replace(
    data,
    sources=sources,
    tokenizer=words,
    images=SIZE,
    rows=rows,
    row_length=96,
    image_slots=5,
    broken=0.01,
    window=2,
  )


def folder(path, **changes):
  return tiny.source('folder', path, **changes)


def iterate(config, **changes):
  shape = (8, 8, 3)
  return pipeline.batches(
    dataclasses.replace(config, **changes),
    patches=PATCHES,
    image_shape=shape,
    seed=0,
    rows=range(config.rows),
  )


def pictures(config, split='train'):
  return pipeline.pictures(config, split=split, seed=0, rows=range(config.rows))


def go_through(source, batches):
  for _ in range(batches):
    next(source)


@pytest.fixture
def told(caplog, monkeypatch):
  """What the log says."""
  monkeypatch.setattr(log.logger, 'propagate', True)
  caplog.set_level(logging.INFO)
  return caplog


@pytest.fixture
def mixed(data, tmp_path):
  """24 pictures with captions and 12 texts without a picture."""
  path = fill(tmp_path / 'mixed', pairs=24, texts=12)
  return of(data, folder=folder(path, heldout=0.1))


@pytest.mark.parametrize('shards', [1, 4])
def test_the_autoencoder_passes_over_texts(mixed, told, shards):
  mixed = dataclasses.replace(mixed, shards=shards)
  inspection.check_pictures(mixed)
  source = pictures(mixed)
  for _ in range(60):
    assert next(source)['images'].shape == (4, 8, 8, 3)
  next(pictures(mixed))  # of the same stage, as when it is measured
  states = source.get_state()['shards'].values()
  assert all(each['source']['sources']['folder']['broken'] == 0 for each in states)
  (line,) = told.messages
  assert line.startswith('data.sources.folder: passed over: ')
  assert 'note 0' in line
  assert 'an autoencoder' in line


def test_passing_over_leaves_the_order_as_it_was(mixed, tmp_path):
  """The pictures are those of the source's own order, texts taken out."""
  endless = epochs.Endless(
    pipeline.collections(mixed, 'train')['folder'], name='folder', seed=0
  )
  expected, index = [], 0
  while len(expected) < 8:
    shown = (each for each in endless[index] if isinstance(each, documents.Image))
    expected += [each.pixels for each in shown]
    index += 1
  again = pictures(dataclasses.replace(mixed, rows=8))
  np.testing.assert_array_equal(next(again)['images'], np.stack(expected))


def test_text_alone_passes_over_pictures(mixed, told):
  inspection.check(dataclasses.replace(mixed, image_slots=0), PATCHES)
  source = iterate(mixed, image_slots=0)
  text = b''
  for _ in range(6):
    tokens = next(source)['tokens']
    text += bytes(tokens[tokens < 256].astype(np.uint8))
  assert b'a note 1' in text
  assert b'picture' not in text
  (line,) = told.messages
  assert line.startswith('data.sources.folder: passed over: ')
  assert '.png: a document with an image' in line


@pytest.mark.parametrize('policy', ['split', 'truncate', 'refuse'])
def test_nothing_for_a_stage_is_found_before_it(data, tmp_path, policy):
  pairs = folder(fill(tmp_path / 'pairs', pairs=30))
  config = of(data, pairs=pairs)
  config = dataclasses.replace(config, image_slots=0, long_pictures=policy)
  with pytest.raises(ValueError, match=r'none among 30, .*png: .* data.image_slots'):
    inspection.check(config, PATCHES)


def test_texts_alone_train_no_autoencoder(data, tmp_path):
  notes = tmp_path / 'notes.jsonl'
  line = json.dumps({'text': 'a note', 'image': None})
  notes.write_text(''.join(f'{line}\n' for _ in range(40)))
  config = of(data, notes=tiny.source('json_lines', str(notes), heldout=0.1))
  with pytest.raises(ValueError) as error:
    inspection.check_pictures(config)
  assert 'data.sources.notes' in str(error.value)
  assert 'image' in str(error.value)


def test_of_two_sources_the_one_of_texts_is_named(data, tmp_path):
  """It would be drawn from for ever, as it never catches up with its share."""
  some = tmp_path / 'some.jsonl'
  lines = [json.dumps({'text': 'a note', 'image': ''}) for _ in range(40)]
  some.write_text('\n'.join(lines))
  pairs = folder(fill(tmp_path / 'pairs', pairs=30), heldout=0.1)
  config = of(data, pairs=pairs, notes=tiny.source('json_lines', str(some)))
  message = r"data.sources.notes: .*none among 40, .*jsonl:\d+: .*form.kind='text'"
  with pytest.raises(ValueError, match=message):
    inspection.check_pictures(config)


def test_held_out_records_without_pictures_are_found_before_a_run(data, tmp_path):
  path = fill(tmp_path, pairs=24)
  (tmp_path / '!first.txt').write_text('a note')
  config = of(data, folder=folder(path, heldout=0.01))
  with pytest.raises(
    ValueError, match='none among 1, .*!first.txt.* raise its heldout'
  ):
    inspection.check_pictures(config)
  inspection.check_pictures(of(data, folder=folder(path, heldout=0.1)))


def test_a_held_out_picture_that_is_broken_is_found_before_a_run(data, tmp_path):
  path = fill(tmp_path, pairs=24, broken=(0,))
  config = of(data, folder=folder(path, heldout=0.01))
  with pytest.raises(ValueError, match=r'data.sources.folder: .*000.png: .*readable'):
    inspection.check_pictures(config)


def test_one_truncated_picture_does_not_end_a_run(data, tmp_path, told):
  """However often it returns: 24 pictures, 21 times in each of two stages."""
  config = of(data, folder=folder(fill(tmp_path, pairs=24, broken=(5,))))
  short = dataclasses.replace(config, row_length=32)
  for source in (pictures(config), iterate(short)):
    go_through(source, 130)
  (line,) = told.messages
  assert '005.png' in line


def test_a_third_of_the_pictures_broken_ends_a_run(data, tmp_path):
  config = of(data, folder=folder(fill(tmp_path, pairs=100, broken=range(0, 90, 3))))
  with pytest.raises(ValueError, match=r'at most 1.00% broken .*\.png'):
    go_through(pictures(config), 100)


@pytest.mark.parametrize('count', [1, 2])
@pytest.mark.parametrize('heldout', [0.01, 0.5])
def test_few_records(data, tmp_path, count, heldout):
  """One alone is held out; of two, one is."""
  config = of(data, few=folder(fill(tmp_path, pairs=count), heldout=heldout))
  for check in (lambda c: inspection.check(c, PATCHES), inspection.check_pictures):
    if count == 2:
      check(config)
    else:
      with pytest.raises(ValueError, match='none of the 1, .*heldout=0, or add record'):
        check(config)


def test_a_document_that_is_too_long_is_named(data, tmp_path, told):
  path = fill(tmp_path, pairs=30)
  (tmp_path / '007.txt').write_text('long ' * 100)
  config = of(data, folder=folder(path, caption_drop=0.0))
  config = dataclasses.replace(config, long_pictures='refuse')
  source = iterate(config)
  for _ in range(12):
    next(source)
  (line,) = told.messages
  assert line.startswith('folder: left out: ')
  assert '007.png: expected documents of at most 96 positions' in line
  other = dataclasses.replace(config, row_length=10)
  with pytest.raises(ValueError, match=r'data.sources.folder: .*\.png: .* at most 10'):
    inspection.check(other, PATCHES)


def test_unreadable_records_are_told_beside_a_missing_field(data, tmp_path):
  """The pictures are there, but empty; what could be read are texts."""
  path = fill(tmp_path, texts=5)
  (tmp_path / 'a.png').write_bytes(b'')
  config = of(data, folder=folder(path))
  message = "expected the field 'image' .* cannot be read one is .*a.png"
  with pytest.raises(ValueError, match=message):
    inspection.check(config, PATCHES)


def test_a_field_of_few_records_is_found(data, tmp_path):
  """24 pictures among 2,000 texts: too few to be met by chance in a small sample."""
  inspection.check(
    of(data, folder=folder(fill(tmp_path, pairs=24, texts=500))), PATCHES
  )


def test_what_a_source_holds_is_told_once(mixed, told, monkeypatch):
  summary = source_lib.Summary(records=36, warnings=('the key a returns',))
  monkeypatch.setattr(corpus.Records, 'summary', lambda self: summary)
  inspection._tell.cache_clear()
  for _ in range(2):  # the stages of a run open the same source
    inspection.announce(mixed)
  assert told.messages == [
    f'data.sources.folder: {summary.line()}',
    'data.sources.folder: the key a returns',
  ]
  assert [each.levelname for each in told.records] == ['INFO', 'WARNING']


def test_scenes_hold_what_the_config_says(data, told):
  inspection.announce(data)
  assert not told.messages


@pytest.mark.parametrize('kind', [OSError, MemoryError, RecursionError, ValueError])
@pytest.mark.parametrize('threads', [0, 3])
def test_what_fails_in_a_thread_reaches_who_waits(mixed, monkeypatch, kind, threads):
  """With its type, and again for who asks again: nobody waits for ever."""
  config = dataclasses.replace(mixed, threads=threads, prefetch=3, broken=0.0)
  drawn = []

  def fail(*_):
    drawn.append(1)
    if len(drawn) > 30:
      raise kind('no more')
    return np.zeros((8, 8, 3), np.uint8)

  monkeypatch.setattr(image_files, 'decode', fail)
  for source in (pictures(config), iterate(config)):
    drawn.clear()
    with pytest.raises(kind, match='no more'):
      go_through(source, 200)
    source.close()


def test_names_with_dots_come_from_the_command_line(data, tmp_path, monkeypatch):
  """As `--config.data.sources.notes.form.text=meta.caption`."""
  notes = tmp_path / 'notes.jsonl'
  record = {'meta': {'caption': 'a fox', 'more': [{'said': 'an owl'}]}}
  notes.write_text(f'{json.dumps(record)}\n' * 3)
  for field, sound in (('meta.caption', True), ('meta.more.said', False)):
    settings = base.source('json_lines', str(notes), form='text')
    line = ['program', f'--config.form.text={field}']
    monkeypatch.setattr('sys.argv', line)  # where the fields of a config come from
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict('config', settings, flag_values=values)
    values(line)
    made = of(data, notes=config.build(corpus.SourceConfig, settings))
    if not sound:
      with pytest.raises(ValueError, match='notes.jsonl:.*text .* found list'):
        inspection.check(made, PATCHES)
    else:
      inspection.check(made, PATCHES)


@pytest.mark.parametrize('kind', ['json_lines', 'web_dataset', 'stored_emoji_scenes'])
def test_paths_are_absolute(kind, monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', '/somewhere')
  monkeypatch.chdir(tmp_path)
  places = {
    '~/data': '/somewhere/data',
    'data/a-*.x': f'{tmp_path}/data/a-*.x',
    '/a/b/': '/a/b',
    'gs://bucket/a': 'gs://bucket/a',
    'memory://a': 'memory://a',
  }
  for given, wanted in places.items():
    assert tiny.source(kind, given).path == wanted
    assert tiny.source(kind, 'a', directory=given).directory == wanted
  assert tiny.source(kind, 'a').directory == ''


def test_names_are_no_paths(monkeypatch):
  monkeypatch.setenv('HOME', '/somewhere')
  found = tiny.source('tfds', 'mnist:3.0.1', split='train', directory='~/tfds')
  assert (found.path, found.directory) == ('mnist:3.0.1', '/somewhere/tfds')
  assert tiny.source('emoji_scenes').path == ''


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    *((name, -1) for name in pipeline.RANGES),
    *((name, 10**9) for name in pipeline.RANGES),
    *((name, 0) for name in ('rows', 'row_length', 'shards', 'window')),
    *(('broken', each) for each in (-0.1, 2.0, float('nan'), float('inf'))),
  ],
)
def test_absurd_numbers_are_refused(data, field, value):
  with pytest.raises(ValueError, match=f'^expected {field} [^\n]*; [^\n]*$'):
    dataclasses.replace(data, **{field: value})


@pytest.mark.parametrize(
  'changes',
  [
    {'heldout': 1e-320},
    {'heldout': float('nan')},
    {'heldout': -0.1},
    {'weights': (float('nan'),)},
    {'weights': (float('inf'),)},
    {'weights': ()},
    {'since': ()},
    {'epochs': -1},
    {'caption_first': float('nan')},
    {'noise_cap': float('inf')},
    {'path': 'a\0b'},
    {'directory': 'a\0b'},
  ],
)
def test_absurd_sources_are_refused(changes):
  with pytest.raises(ValueError, match='^[^\n]*expected [^\n]*; [^\n]*$'):
    tiny.source('folder', **{'path': 'x', **changes})


@pytest.mark.parametrize('length', [1, 2, 3, 5])
@pytest.mark.parametrize('slots', [0, 1])
def test_rows_too_short_for_anything_are_found_or_work(mixed, length, slots):
  config = dataclasses.replace(mixed, row_length=length, image_slots=slots)
  if slots or length == 1:
    with pytest.raises(ValueError, match='row_length'):
      inspection.check(config, PATCHES)
  else:
    inspection.check(config, PATCHES)
    assert next(iterate(config))['tokens'].shape == (4, length)
