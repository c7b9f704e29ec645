"""Questions: what is written can be read, and answers say what the picture holds."""

import numpy as np
import pytest

from transfusion_jax.data import documents
from transfusion_jax.data.emoji import captions as emoji_captions
from transfusion_jax.data.emoji import glyphs as emoji_glyphs
from transfusion_jax.data.emoji import questions as emoji_questions
from transfusion_jax.data.emoji import rendering as emoji_rendering


def all_names() -> tuple[str, ...]:
  return tuple(glyph.name for glyph in emoji_glyphs.select(0))


def picture(kind, names, colors, places, relation=None):
  meaning = emoji_captions.Meaning(kind, names, colors, relation)
  squares = [(*place, 16) for place in places]
  return emoji_rendering.draw(meaning, squares, 32, later=False)


PAIR = picture('pair', ('panda', 'guitar'), ('blue',) * 2, [(0, 8), (16, 8)], 'left')
COUNT = picture('count', ('fox',) * 3, ('pink',) * 3, [(0, 0), (16, 0), (0, 16)])
TILES = picture(
  'binding', ('red apple', 'fox'), ('green', 'white'), [(8, 16), (8, 0)], 'below'
)
SINGLE = picture('single', ('avocado',), ('yellow',), [(8, 8)])


def test_reading_undoes_writing_for_every_glyph():
  names = all_names()
  for name in names:
    asked = [
      emoji_questions.Question(kind, name, None) for kind in ('colour', 'relation')
    ]
    if emoji_captions.countable(name):
      asked.append(emoji_questions.Question('count', name, None))
    for relation in emoji_captions.RELATIONS:
      asked.append(emoji_questions.Question('object', name, relation))
    for question in asked:
      assert emoji_questions.read(emoji_questions.write(question), names) == question


@pytest.mark.parametrize(
  ('asked', 'kind', 'expected'),
  [
    (
      PAIR,
      'count',
      {'how many pandas are there?': 'one', 'how many guitars are there?': 'one'},
    ),
    (
      PAIR,
      'colour',
      {
        'what colour is behind the panda?': 'blue',
        'what colour is behind the guitar?': 'blue',
        'what colour is the background?': 'blue',
      },
    ),
    (
      PAIR,
      'object',
      {
        'what is to the left of the guitar?': 'a panda',
        'what is to the right of the panda?': 'a guitar',
        'what is on the left?': 'a panda',
        'what is on the right?': 'a guitar',
      },
    ),
    (
      PAIR,
      'relation',
      {
        'where is the panda?': 'to the left of the guitar',
        'where is the guitar?': 'to the right of the panda',
      },
    ),
    (COUNT, 'count', {'how many foxes are there?': 'three'}),
    (COUNT, 'colour', {'what colour is the background?': 'pink'}),
    (COUNT, 'object', {}),
    (
      TILES,
      'colour',
      {
        'what colour is behind the red apple?': 'green',
        'what colour is behind the fox?': 'white',
      },
    ),
    (
      TILES,
      'object',
      {
        'what is above the red apple?': 'a fox',
        'what is below the fox?': 'a red apple',
        'what is above?': 'a fox',
        'what is below?': 'a red apple',
      },
    ),
    (
      TILES,
      'relation',
      {
        'where is the red apple?': 'below the fox',
        'where is the fox?': 'above the red apple',
      },
    ),
    (SINGLE, 'count', {'how many avocados are there?': 'one'}),
    (SINGLE, 'relation', {}),
  ],
)
def test_all_that_can_be_asked_about_a_picture(asked, kind, expected):
  names = all_names()
  possible = emoji_questions.possible(asked, kind)
  texts = [emoji_questions.write(question) for question in possible]
  found = [
    emoji_questions.answer(emoji_questions.read(text, names), asked) for text in texts
  ]
  assert dict(zip(texts, found, strict=True)) == expected


def test_english_of_what_is_a_plural():
  question = emoji_questions.Question('relation', 'grapes', None)
  assert emoji_questions.write(question) == 'where are the grapes?'
  grapes = picture('single', ('grapes',), ('blue',), [(8, 8)])
  assert emoji_questions.possible(grapes, 'count') == []


@pytest.mark.parametrize(
  'nonsense',
  [
    '',
    'a panda',
    'how many panda are there?',
    'how many pandas are there',
    'where is the wombat?',
    'what is beside the panda?',
    'what colour is the panda?',
  ],
)
def test_what_is_no_question_means_nothing(nonsense):
  assert emoji_questions.read(nonsense, all_names()) is None


def test_one_of_every_kind_is_asked_in_any_order():
  rng = np.random.default_rng(0)
  asked = [emoji_questions.ask(rng, PAIR, emoji_questions.KINDS) for _ in range(200)]
  orders = [tuple(each.kind for each in some.questions) for some in asked]
  assert {tuple(sorted(order)) for order in orders} == {
    tuple(sorted(emoji_questions.KINDS))
  }
  assert len(set(orders)) == 24
  every = {question for some in asked for question in some.questions}
  assert len(every) == 2 + 3 + 4 + 2  # all that can be asked
  assert emoji_questions.ask(rng, SINGLE, ('object', 'relation')) is None
  assert len(emoji_questions.ask(rng, SINGLE, emoji_questions.KINDS).questions) == 2


def test_only_the_answers_are_learnt():
  questions = [
    emoji_questions.Question(kind, 'panda', None) for kind in ('relation', 'count')
  ]
  asked = emoji_questions.Asked(PAIR, tuple(questions))
  image, *said = asked.document()
  assert image.pixels is PAIR.pixels
  assert not image.learn
  assert image.noise_cap == 0
  assert said == [
    documents.Text('where is the panda?', learn=False),
    documents.Text(' to the left of the guitar', learn=True),
    documents.Text(' how many pandas are there?', learn=False),
    documents.Text(' one', learn=True),
  ]
