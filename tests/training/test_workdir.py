"""The work directory: whose it is."""

import pathlib
import shutil

import pytest

from transfusion_jax.core import sealed_json
from transfusion_jax.training import workdir

CONFIG = {
  'seed': 0,
  'model': {'depth': 2, 'widths': [8, 16]},
  'train': {'steps': 10, 'microbatches': 1},
  'sampling': {'steps': 25},
  'autoencoder': {'run': {'train': {'steps': 5}}},
}
CONTENTS = {'data.tokenizer.path': 'ab', 'data.sources.photos.path': 'cd'}


def changed(**sections):
  return {**CONFIG, **{k: {**CONFIG[k], **v} for k, v in sections.items()}}


@pytest.fixture
def place(tmp_path):
  return workdir.Workdir(tmp_path / 'deep' / 'run')


def test_a_new_folder_is_claimed_and_may_be_claimed_again(place):
  place.claim(CONFIG, CONTENTS)
  assert place.read_config() == CONFIG
  place.claim(CONFIG, CONTENTS)


def test_what_decides_the_learning_may_not_change(place):
  place.claim(CONFIG, CONTENTS)
  before = place.config.read_bytes()
  for other, line in (
    ({**CONFIG, 'seed': 1}, 'seed: expected 0, found 1'),
    (changed(model={'depth': 3}), 'model.depth: expected 2, found 3'),
    (changed(train={'microbatches': 2}), 'train.microbatches: expected 1, found 2'),
    (
      {**CONFIG, 'autoencoder': {'run': {'train': {'steps': 6}}}},
      'autoencoder.run.train.steps: expected 5, found 6',
    ),
    (changed(model={'extra': 1}), 'model.extra'),
  ):
    with pytest.raises(ValueError, match='expected what .* was begun with') as error:
      place.claim(other, CONTENTS)
    assert line in str(error.value)
    assert 'name another --workdir' in str(error.value)
    assert place.config.read_bytes() == before


def test_many_changes_stay_one_readable_line(place):
  place.claim(CONFIG, CONTENTS)
  other = {**CONFIG, 'model': {f'field{k}': k for k in range(9)}}
  with pytest.raises(ValueError, match=r'\(and 8 more\)'):
    place.claim(other, CONTENTS)


def test_how_long_and_what_is_measured_may_change(place):
  place.claim(CONFIG, CONTENTS)
  longer = changed(train={'steps': 20}, sampling={'steps': 50})
  place.claim(longer, CONTENTS)
  assert place.read_config() == longer


@pytest.mark.parametrize('name', ['metrics.jsonl', 'checkpoints'])
def test_a_folder_of_something_else_is_left_alone(tmp_path, name):
  (tmp_path / name).mkdir()
  with pytest.raises(ValueError, match=f'found {name} without it'):
    workdir.Workdir(tmp_path).claim(CONFIG, CONTENTS)
  assert [p.name for p in tmp_path.iterdir()] == [name]


def test_data_that_changed_under_its_name_is_noticed(place):
  place.claim(CONFIG, CONTENTS)
  with pytest.raises(ValueError, match=r'sources.photos.path: .* has changed') as error:
    place.claim(CONFIG, {**CONTENTS, 'data.sources.photos.path': 'ef'})
  assert '--allow=data.sources.photos.path' in str(error.value)


@pytest.mark.parametrize('allowed', ['seed', 'model', 'model.depth', 'data'])
def test_a_change_may_be_allowed(place, allowed):
  """By its own name or that of a section around it, and only so."""
  place.claim(CONFIG, CONTENTS)
  changes = {
    'seed': ({**CONFIG, 'seed': 1}, CONTENTS),
    'data': (CONFIG, {**CONTENTS, 'data.tokenizer.path': 'ef'}),
  }
  other = changes.get(allowed, (changed(model={'depth': 3}), CONTENTS))
  with pytest.raises(ValueError, match='begun with'):
    place.claim(*other, ['see', 'mod', 'train'])
  place.claim(*other, [allowed])
  place.claim(*other)


def test_checking_writes_nothing(place):
  place.check(CONFIG, CONTENTS)
  assert not place.root.exists()
  place.claim(CONFIG, CONTENTS)
  before = place.config.read_bytes()
  place.check(changed(model={'depth': 3}), CONTENTS, ['model'])
  assert place.config.read_bytes() == before


@pytest.mark.parametrize('sign', ['saved', 'facts', 'latents'])
def test_steps_that_were_saved_and_have_gone_are_not_begun_anew(place, sign):
  place.claim(CONFIG, CONTENTS)
  sealed_json.write(getattr(place, sign), {'step': 5})
  with pytest.raises(ValueError, match='expected the steps that were saved under'):
    place.claim(CONFIG, CONTENTS)
  (place.checkpoints / '5').mkdir(parents=True)
  place.claim(CONFIG, CONTENTS)
  shutil.rmtree(place.checkpoints)
  place.checkpoints.write_text('not a folder')
  with pytest.raises(ValueError, match='expected a folder at .*Not a directory'):
    place.claim(CONFIG, CONTENTS)


def test_steps_that_may_not_be_read_are_not_taken_for_none(place, monkeypatch):
  place.claim(CONFIG, CONTENTS)
  (place.checkpoints / '5').mkdir(parents=True)
  place.note_saved(5)

  def denied(_):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(pathlib.Path, 'iterdir', denied)
  with pytest.raises(ValueError, match='can be read, found Permission denied'):
    place.check(CONFIG, CONTENTS)


def test_a_folder_in_a_bucket_or_a_file_is_refused_before_anything_is_made(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match='found gs://bucket/run'):
    workdir.at('gs://bucket/run')
  assert not list(tmp_path.iterdir())
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='found a file; name another --workdir'):
    workdir.at('file').check(CONFIG, CONTENTS)
  monkeypatch.setenv('HOME', str(tmp_path))
  assert workdir.at('~/run').root == tmp_path / 'run'


@pytest.mark.parametrize('name', ['config', 'contents'])
@pytest.mark.parametrize('text', ['', '[]', '5', '{}', '{"a": ' * 9999])
def test_a_damaged_file_is_one_line_and_stays(place, name, text):
  place.claim(CONFIG, CONTENTS)
  path = getattr(place, name)
  path.write_text(text)
  with pytest.raises(ValueError, match=f'{path.name} as it was written'):
    place.claim(CONFIG, CONTENTS)
  assert path.read_text() == text
