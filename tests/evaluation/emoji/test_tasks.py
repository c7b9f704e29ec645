"""The dataset's own answers and edits are all right; what is wrong is found out."""

import dataclasses

import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.data.emoji import captions as emoji_captions
from transfusion_jax.data.emoji import edits as emoji_edits
from transfusion_jax.data.emoji import questions as emoji_questions
from transfusion_jax.data.emoji import rendering as emoji_rendering
from transfusion_jax.evaluation import report
from transfusion_jax.evaluation.emoji import scorer, tasks
from transfusion_jax.generation import writer as writer_lib
from transfusion_jax.generation.samplers import denoise

MINI = tiny.scenes()
FREE = dataclasses.replace(MINI, size=48, sprites=(16, 20), placement='free')
COUNT = 6
CONFIG = tasks.SceneTasksConfig('scene_tasks', COUNT, COUNT, shown=10, seed=0)


class Scripted(writer_lib.Writer):
  """Gives the dataset's answers and pictures, unless told otherwise."""

  def __init__(self, data):
    self.answers, self.results, self.asked = {}, {}, []
    for kind in emoji_questions.KINDS:
      for one in tasks.questions(data, kind, COUNT):
        key = one.picture.pixels.tobytes(), emoji_questions.write(one.questions[0])
        self.answers[key] = one.answers[0]
    for kind in emoji_edits.KINDS:
      for one in tasks.edits(data, kind, COUNT):
        key = one.before.pixels.tobytes(), emoji_edits.write(one.edit)
        self.results[key] = one.after.pixels

  def answer(self, pictures, questions):
    self.asked.append(len(questions))
    keys = zip(pictures, questions, strict=True)
    return [self.answers[picture.tobytes(), text] for picture, text in keys]

  def edit(self, pictures, instructions, keys, sampling):
    assert len(keys) == len(pictures)
    asked = zip(pictures, instructions, strict=True)
    return np.stack([self.results[picture.tobytes(), text] for picture, text in asked])


@pytest.fixture
def sampling():
  fields = {field.name: 1.0 for field in dataclasses.fields(denoise.ImageSampling)}
  return denoise.ImageSampling(**{**fields, 'solver': 'ddim', 'steps': 1})


def scores(data, writer, sampling, config=CONFIG, rows=4):
  evaluate = tasks.SceneTasks(config, data, sampling, rows=rows)
  found = list(evaluate(writer))
  names = [name for name, _ in found]
  assert len(set(names)) == len(names)
  values = {name: value for name, value in found if isinstance(value, float)}
  return values, {name: value for name, value in found if name not in values}


def test_the_datasets_own_are_all_right(sampling):
  writer = Scripted(MINI)
  values, galleries = scores(MINI, writer, sampling)
  expected = {f'question_{kind}' for kind in emoji_questions.KINDS}
  expected |= {f'edit_{kind}' for kind in emoji_edits.KINDS} | {'edit', 'edit_kept'}
  assert values == dict.fromkeys(expected, 1.0)
  assert {goal.name for goal in tasks.GOALS} <= expected
  assert set(writer.asked) == {4, 2}  # rows at a time
  assert galleries.keys() == {'questions', 'edits'}
  for gallery in galleries.values():
    assert isinstance(gallery, report.Gallery)
    assert len(gallery.tiles) == CONFIG.shown
    assert all(tile.good for tile in gallery.tiles)


@pytest.mark.parametrize('kind', emoji_edits.KINDS)
def test_results_that_stand_anywhere_are_right(kind):
  for edited in tasks.edits(FREE, kind, 3):
    found = scorer.read(FREE, edited.after, edited.after.pixels)
    assert scorer.judge(FREE, edited.after, found).whole
    assert tasks.kept(FREE, edited, found)


def test_wrong_answers_and_pictures_left_as_they_were(sampling):
  writer = Scripted(MINI)
  writer.answers = dict.fromkeys(writer.answers, 'four')
  writer.edit = lambda pictures, *_: np.stack(pictures)
  values, galleries = scores(MINI, writer, sampling)
  for kind in ('colour', 'object', 'relation'):
    assert values[f'question_{kind}'] == 0
  assert 0 <= values['question_count'] < 1
  assert values['edit'] == 0
  assert values['edit_kept'] == 1
  assert not any(tile.good for tile in galleries['edits'].tiles)


def test_counts_are_balanced_where_they_can_be():
  asked = tasks.questions(MINI, 'count', 400)
  answers = [one.answers[0] for one in asked]
  for number in ('one', 'two', 'three', 'four'):
    assert abs(answers.count(number) - 100) < 40


def test_what_scenes_do_not_allow_is_left_out(sampling):
  singles = dataclasses.replace(MINI, count=0.0, pair=0.0, binding=0.0, story=0.0)
  values, _ = scores(singles, Scripted(singles), sampling)
  assert {name for name in values if name.startswith('question')} == {
    'question_count',
    'question_colour',
  }
  assert {'edit_ground', 'edit_replace', 'edit_add'} <= values.keys()
  assert not {'edit_swap', 'edit_remove', 'edit_count'} & values.keys()


@pytest.mark.parametrize('asked', ['questions', 'edits'])
def test_either_can_be_left_out(asked, sampling):
  config = dataclasses.replace(CONFIG, **{asked: 0})
  values, galleries = scores(MINI, Scripted(MINI), sampling, config)
  assert not any(name.startswith(asked[:-1]) for name in [*values, *galleries])
  assert len(galleries) == 1


def picture(kind, things, relation=None):
  names, places, colors = zip(*things, strict=True)
  kind = kind if len(things) > 1 else 'single'
  meaning = emoji_captions.Meaning(kind, names, colors, relation)
  return emoji_rendering.draw(meaning, [(*p, 16) for p in places], 32, later=False)


LEFT, RIGHT, MIDDLE = (0, 8), (16, 8), (8, 8)
PANDA_FOX = picture('pair', [('panda', LEFT, 'blue'), ('fox', RIGHT, 'blue')], 'left')


@pytest.mark.parametrize(
  ('shown', 'expected'),
  [
    ([('panda', LEFT, 'blue'), ('frog', RIGHT, 'blue')], True),
    ([('panda', LEFT, 'blue'), ('crab', RIGHT, 'blue')], True),  # wrong, but kept
    ([('panda', LEFT, 'blue')], True),
    ([('panda', RIGHT, 'blue'), ('frog', LEFT, 'blue')], False),
    ([('panda', LEFT, 'pink'), ('frog', RIGHT, 'pink')], False),
    ([('crab', LEFT, 'blue'), ('frog', RIGHT, 'blue')], False),
  ],
)
def test_what_is_not_replaced_stays(shown, expected):
  edit = emoji_edits.Edit('replace', ('fox', 'frog'), None)
  squares = [(thing.x, thing.y, thing.size) for thing in PANDA_FOX.objects]
  after = emoji_edits.make(PANDA_FOX, edit, squares)
  edited = emoji_edits.Edited(PANDA_FOX, edit, after)
  found = scorer.read(MINI, after, picture('count', shown).pixels)
  assert tasks.kept(MINI, edited, found) == expected


@pytest.mark.parametrize(
  ('slots', 'expected'),
  [
    ([(0, 0), (16, 0)], True),
    ([(16, 0), (0, 16)], True),  # another one has gone
    ([(0, 0), (16, 16)], False),  # one has moved
    ([(0, 0)], False),
  ],
)
def test_which_of_several_go_is_free(slots, expected):
  three = [('panda', slot, 'gray') for slot in [(0, 0), (16, 0), (0, 16)]]
  edit = emoji_edits.Edit('count', ('panda',), 'two')
  before = picture('count', three)
  after = emoji_edits.make(before, edit, [(0, 0, 16), (16, 0, 16)])
  edited = emoji_edits.Edited(before, edit, after)
  drawn = picture('count', [('panda', slot, 'gray') for slot in slots]).pixels
  found = scorer.read(MINI, after, drawn)
  assert tasks.kept(MINI, edited, found) == expected


def test_bad_config():
  with pytest.raises(ValueError, match='at least 0, found -1, 0 and 0'):
    tasks.SceneTasksConfig('scene_tasks', -1, 0, 0, 0)
