"""The work directory: whose it is."""

import json

import pytest

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
  assert json.loads(place.config.read_text()) == CONFIG
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
  assert json.loads(place.config.read_text()) == longer


@pytest.mark.parametrize('name', ['metrics.jsonl', 'checkpoints'])
def test_a_folder_of_something_else_is_left_alone(tmp_path, name):
  (tmp_path / name).mkdir()
  with pytest.raises(ValueError, match=f'found {name} without it'):
    workdir.Workdir(tmp_path).claim(CONFIG, CONTENTS)
  assert [p.name for p in tmp_path.iterdir()] == [name]


def test_json_is_written_in_one_go(tmp_path):
  path = tmp_path / 'x.json'
  workdir.write_json(path, {'a': [1, 2.5]})
  workdir.write_json(path, {'a': [3]})
  assert json.loads(path.read_text()) == {'a': [3]}
  assert [p.name for p in tmp_path.iterdir()] == ['x.json']


def test_data_that_changed_under_its_name_is_noticed(place):
  place.claim(CONFIG, CONTENTS)
  with pytest.raises(ValueError, match=r'sources.photos.path: .* found .ef') as error:
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
