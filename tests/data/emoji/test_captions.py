"""The grammar: what is written can be read, and is English."""

import pytest

from transfusion_jax.data.emoji import captions as emoji_captions
from transfusion_jax.data.emoji import glyphs as emoji_glyphs


def all_names() -> tuple[str, ...]:
  return tuple(glyph.name for glyph in emoji_glyphs.select(0))


def test_reading_undoes_writing_for_every_glyph():
  names = all_names()
  for index, name in enumerate(names):
    other = names[index - 1]
    meanings = [emoji_captions.Meaning('single', (name,), ('orange',), None)]
    if emoji_captions.countable(name):
      count = 2 + index % 3
      meanings.append(
        emoji_captions.Meaning('count', (name,) * count, ('blue',) * count, None)
      )
    for relation in emoji_captions.RELATIONS:
      meanings += [
        emoji_captions.Meaning('pair', (name, other), ('red', 'red'), relation),
        emoji_captions.Meaning('binding', (name, other), ('red', 'gray'), relation),
      ]
    for meaning in meanings:
      caption = emoji_captions.write(meaning)
      assert emoji_captions.read(caption, names) == meaning
      assert emoji_captions.read(f'then {caption}', names) == meaning


@pytest.mark.parametrize(
  ('name', 'article', 'plural'),
  [
    ('panda', 'a', 'pandas'),
    ('red apple', 'a', 'red apples'),
    ('avocado', 'an', 'avocados'),
    ('fox', 'a', 'foxes'),
    ('unicorn', 'a', 'unicorns'),
    ('umbrella', 'an', 'umbrellas'),
    ('strawberry', 'a', 'strawberries'),
    ('monkey face', 'a', 'monkey faces'),
    ('ear of corn', 'an', 'ears of corn'),
    ('person running', 'a', 'people running'),
    ('maple leaf', 'a', 'maple leaves'),
    ('octopus', 'an', 'octopuses'),
    ('grapes', 'some', 'grapes'),
    ('x-ray', 'an', 'x-rays'),
  ],
)
def test_english(name, article, plural):
  assert emoji_captions.article(name) == article
  assert emoji_captions.plural(name) == plural


def test_plurals_tell_glyphs_apart():
  countable = [name for name in all_names() if emoji_captions.countable(name)]
  plurals = {emoji_captions.plural(name) for name in countable}
  assert len(plurals) == len(countable) > 1300


@pytest.mark.parametrize(
  'nonsense',
  [
    '',
    'a panda',
    'panda on a blue background',
    'an panda on a blue background',
    'a wombat on a blue background',
    'five pandas on a blue background',
    'a panda left of a fox on a blue background',
    'a panda to the left of a fox on a blue tile',
    'a panda on a blue background background',
  ],
)
def test_what_is_no_caption_means_nothing(nonsense):
  assert emoji_captions.read(nonsense, all_names()) is None


def test_vocabulary_is_sorted_and_lower_case():
  words = emoji_captions.vocabulary(all_names(), tuple(emoji_glyphs.COLORS))
  assert list(words) == sorted(set(words))
  assert all(word == word.lower() for word in words)
