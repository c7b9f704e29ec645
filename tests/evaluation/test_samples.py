"""Evaluators of a run's own held-out data: each takes what it can use."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from configs import base
from tests.support import tiny
from transfusion_jax.data import documents, pipeline
from transfusion_jax.evaluation import evaluator, image_loss, perplexity, samples
from transfusion_jax.runs import build, config

SECTION = samples.SamplesConfig(
  'samples', prompts=3, captions=2, images=2, limit=4, seed=0
)


def records(folder, *, images: int, captions: int, texts: int = 0, broken: int = 0):
  """A folder with spaces in its name of so many files of every kind."""
  path = folder / 'my own data'
  path.mkdir(exist_ok=True)
  for number in range(images):
    Image.fromarray(tiny.picture(number)).save(path / f'{number}.png')
    if number < captions:
      (path / f'{number}.txt').write_text(' '.join(tiny.WORDS[: number % 4 + 1]))
  for number in range(texts):
    (path / f'text{number}.txt').write_text('a b c d')
  for number in range(broken):
    (path / f'broken{number}.png').write_bytes(b'\x89PNG\r\n\x1a\nnothing')
  return path


def data(*sources, **changes) -> pipeline.DataConfig:
  page = base.transfusion().data
  base.mix(page, **{f's{number}': each for number, each in enumerate(sources)})
  page.images.update(height=tiny.SIDE, width=tiny.SIDE, smallest=1)
  made = config.build(pipeline.DataConfig, _finished(page))
  sizes = {'row_length': tiny.LENGTH, 'image_slots': tiny.SLOTS}
  return dataclasses.replace(made, **{**sizes, **changes})


def _finished(page):
  page.update(rows=2, row_length=tiny.LENGTH, image_slots=tiny.SLOTS)
  return page


def made(found: pipeline.DataConfig, section=SECTION, rows=2) -> samples.Samples:
  return samples.Samples(
    section, data=found, plan=tiny.LAYOUT, sampling=tiny.image_sampling(), rows=rows
  )


def measured(found: pipeline.DataConfig, **changes):
  (outcome,) = evaluator.run({'samples': made(found, **changes)}, tiny.writer())
  assert outcome.error is None, outcome.error
  return outcome


def folder(path, heldout: float = 0.5, **changes):
  return base.source('folder', str(path), heldout=heldout, **changes)


def test_held_out_prompts_captions_and_reconstructions(tmp_path):
  path = records(tmp_path, images=12, captions=12, texts=3, broken=2)
  found = measured(data(folder(path)))
  assert found.values == {'psnr': pytest.approx(58.9, abs=0.1)}  # pixels are latents
  shown = found.galleries
  assert list(shown) == ['drawings', 'captions', 'reconstructions']
  assert [len(each.tiles) for each in shown.values()] == [3, 2, 2]
  for tile in shown['drawings'].tiles:
    assert tile.picture.shape == (tiny.SIDE, 2 * tiny.SIDE + 1, 3)
    assert set(tile.text.split()) <= set('abcd')
  for tile in shown['captions'].tiles:
    assert tile.truth
    assert tile.picture.shape == (tiny.SIDE, tiny.SIDE, 3)
  pair = shown['reconstructions'].tiles[0]
  assert (pair.picture[:, : tiny.SIDE] == pair.picture[:, -tiny.SIDE :]).all()
  assert pair.text == '58.9 dB'


def test_they_are_the_same_every_time_and_whatever_the_rows(tmp_path):
  found = data(folder(records(tmp_path, images=12, captions=12)))
  first, second, third = measured(found), measured(found), measured(found, rows=1)
  for name in first.galleries:
    for one, *others in zip(
      *(each.galleries[name].tiles for each in (first, second, third)), strict=True
    ):
      for other in others:
        assert (one.text, one.truth) == (other.text, other.truth)
        assert np.abs(one.picture.astype(int) - other.picture).max() <= 1
  other = dataclasses.replace(SECTION, seed=1)
  changed = measured(found, section=other).galleries['drawings'].tiles
  assert any(
    (one.picture != two.picture).any()
    for one, two in zip(first.galleries['drawings'].tiles, changed, strict=True)
  )


@pytest.mark.parametrize(
  ('counts', 'galleries'),
  [
    ({'images': 1, 'captions': 1}, ['drawings', 'captions', 'reconstructions']),
    ({'images': 8, 'captions': 0}, ['reconstructions']),
    ({'images': 4, 'captions': 4, 'broken': 60}, None),
  ],
)
def test_few_or_odd_records(tmp_path, counts, galleries):
  found = measured(data(folder(records(tmp_path, **counts)))).galleries
  assert galleries is None or list(found) == galleries


@pytest.mark.parametrize(
  ('counts', 'heldout', 'told'),
  [
    ({'images': 8, 'captions': 8}, 0.0, r'nothing held out of s0; set --config.data'),
    ({'images': 0, 'captions': 0, 'texts': 9}, 0.5, 'held-out images that fit'),
    ({'images': 0, 'captions': 0, 'broken': 9}, 0.5, 'held-out images that fit'),
  ],
)
def test_nothing_to_show_is_one_line(tmp_path, counts, heldout, told):
  found = data(folder(records(tmp_path, **counts), heldout))
  with pytest.raises(evaluator.Unsuited, match=told) as error:
    made(found)
  assert '\n' not in str(error.value)


def line(tmp_path, record: dict, count: int = 4):
  """A file of JSON Lines with one record several times."""
  records(tmp_path, images=2, captions=0)
  path = tmp_path / 'my own data' / 'records.jsonl'
  path.write_text((json.dumps(record) + '\n') * count)
  return str(path)


FORMS = {
  'interleaved': (
    {'text': ['a b', None, 'c', None], 'image': [None, '0.png', None, '1.png']},
    'a b',
    1,
    'c',
  ),
  'question': ({'image': '0.png', 'text': 'a b', 'answer': 'c'}, None, 0, 'c'),
  'edit': ({'image': '0.png', 'text': 'a b', 'result': '1.png'}, 'a b', 2, None),
  'picture': ({'image': '0.png'}, None, 0, None),
}


@pytest.mark.parametrize('form', FORMS)
def test_documents_of_every_form(tmp_path, form):
  record, prompt, before, truth = FORMS[form]
  path = line(tmp_path, record)
  source = base.source('json_lines', path, heldout=0.5, form=form)
  found = measured(data(source)).galleries
  assert ('drawings' in found) == (prompt is not None)
  assert ('captions' in found) == (truth is not None)
  assert 'reconstructions' in found
  if prompt:
    tile = found['drawings'].tiles[0]
    assert tile.text == prompt
    sides = 2 if before < 2 else 3  # an edit is shown with what it is an edit of
    assert tile.picture.shape[1] == sides * tiny.SIDE + sides - 1
  if truth:
    assert found['captions'].tiles[0].truth == truth
  if form == 'question':
    assert found['captions'].tiles[0].text.startswith('a b')


def test_sources_take_turns(tmp_path):
  (tmp_path / 'x').mkdir()
  one = folder(records(tmp_path, images=9, captions=9))
  other = base.source(
    'json_lines', line(tmp_path / 'x', {'image': '0.png', 'text': 'p'})
  )
  other.heldout = 0.5
  tiles = measured(data(one, other)).galleries['drawings'].tiles
  assert {'p'} < {tile.text for tile in tiles}


def test_long_and_unknown_texts_are_passed_over(tmp_path):
  path = records(tmp_path, images=6, captions=6)
  (path / '0.txt').write_text('a ' * 200)
  (path / '2.txt').write_text('zebra')
  found = measured(data(folder(path))).galleries
  assert len(found['drawings'].tiles) == 1


def test_the_image_loss_needs_no_source(tmp_path):
  found = data(folder(records(tmp_path, images=9, captions=5, texts=4)))
  section = image_loss.HeldoutImageLossConfig('heldout_image_loss', 64, 0)
  measure = image_loss.HeldoutImageLoss(
    section, data=found, plan=tiny.LAYOUT, image_shape=(tiny.SIDE, tiny.SIDE, 3), rows=4
  )
  first = dict(measure(tiny.writer()))
  assert first == dict(measure(tiny.writer()))
  assert first['loss_image'] > 0
  assert 1 <= first['pictures'] <= 5


def test_perplexity_takes_texts_alone(tmp_path):
  found = data(folder(records(tmp_path, images=9, captions=9, texts=8)))
  section = perplexity.HeldoutPerplexityConfig('heldout_perplexity', 64, 0)
  measure = perplexity.HeldoutPerplexity(section, data=found, plan=tiny.LAYOUT, rows=4)
  scores = dict(measure(tiny.writer()))
  assert scores['tokens'] == 4 * scores['documents'] > 0


def moments_of(picture: np.ndarray) -> np.ndarray:
  unit = picture.astype(np.float32) / 127.5 - 1
  return np.concatenate([unit, np.zeros_like(unit)], -1).astype(np.float16)


def test_moments_are_decoded_to_be_shown(tmp_path, monkeypatch):
  """Stored latents: the loss is that of their pixels, and drawings are shown."""
  pixels = data(folder(records(tmp_path, images=9, captions=9)))
  plain = pipeline.collections(pixels, 'test')

  class Encoded:
    def __init__(self, opened):
      self._opened = opened

    def __len__(self):
      return len(self._opened)

    def document(self, index, rng):
      return tuple(
        dataclasses.replace(each, pixels=moments_of(each.pixels))
        if isinstance(each, documents.Image)
        else each
        for each in self._opened.document(index, rng)
      )

  losses = {}
  encoded = {name: Encoded(each) for name, each in plain.items()}
  for moments in (False, True):
    if moments:
      monkeypatch.setattr(pipeline, 'collections', lambda *_: encoded)
    found = dataclasses.replace(pixels, moments=moments)
    measure = image_loss.HeldoutImageLoss(
      image_loss.HeldoutImageLossConfig('heldout_image_loss', 64, 0),
      data=found,
      plan=tiny.LAYOUT,
      image_shape=(tiny.SIDE, tiny.SIDE, 6 if moments else 3),
      rows=4,
    )
    losses[moments] = dict(measure(tiny.writer()))
  assert losses[True] == pytest.approx(losses[False], rel=1e-2)
  shown = measured(found).galleries
  assert list(shown) == ['drawings', 'captions']
  assert shown['drawings'].tiles[0].picture.dtype == np.uint8


def run_of(path, **changes) -> config.TransfusionRun:
  from configs import folder as page

  made = page.get_config(str(path))
  made.data.sources.folder.heldout = 0.5
  made.data.update(changes)
  return config.parse(made)


def test_every_run_has_them_and_none_stands_in_the_way(tmp_path, monkeypatch):
  told = []
  monkeypatch.setattr(build.log, 'once', told.append)
  find = lambda run: sorted(build.evaluators(run, run.evaluation.evaluators))  # noqa: E731
  path = records(tmp_path, images=8, captions=8)
  for name in range(8):  # of a size that the config takes
    big = np.kron(tiny.picture(name), np.ones((8, 8, 1), np.uint8))
    Image.fromarray(big).save(path / f'{name}.png')
  assert find(run_of(path)) == ['heldout_images', 'samples']
  assert find(run_of(path, image_slots=0)) == []
  assert len(told) == 1
  assert told[0].startswith('evaluation without heldout_texts: expected held-out texts')
  told.clear()
  run = run_of(path)
  source = dataclasses.replace(run.data.sources['folder'], heldout=0.0)
  none = dataclasses.replace(run.data, sources={'folder': source})
  assert find(dataclasses.replace(run, data=none)) == []
  assert len(told) == 1
  assert told[0].startswith('evaluation without heldout_images and samples: expected')
  (tmp_path / 'texts').mkdir()
  texts = records(tmp_path / 'texts', images=0, captions=0, texts=8)
  assert find(run_of(texts, image_slots=0)) == ['heldout_texts']


@pytest.mark.parametrize(
  'changes', [{'prompts': -1}, {'limit': 0}, {'prompts': 0, 'captions': 0, 'images': 0}]
)
def test_counts_are_checked(changes):
  with pytest.raises(ValueError, match='raise them'):
    dataclasses.replace(SECTION, **changes)
