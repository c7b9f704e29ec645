"""The scorer finds what is there, in worn pictures too, and nothing else."""

import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.support import tiny
from transfusion_jax.data.emoji import glyphs as emoji_glyphs
from transfusion_jax.data.emoji import rendering as emoji_rendering
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.evaluation.emoji import scorer

MINI = tiny.scenes(story=0.0)
FREE = dataclasses.replace(MINI, size=64, sprites=(20, 24, 28), placement='free')
# Two colours and one size keep the drawing of all templates short.
ALL = dataclasses.replace(FREE, glyphs=0, colors=2, size=96, sprites=(32,), heldout=0.0)
ROWS = {
  'background',
  'single_object',
  'two_objects',
  'relation',
  'counting',
  'binding',
}


def take(config, count, split='test'):
  source = emoji_scenes.EmojiScenes(config, split)
  return [source[index] for index in range(count)]


def only(config, kind):
  weights = {name: float(name == kind) for name in emoji_scenes.KINDS}
  return dataclasses.replace(config, **weights)


def wear(pixels, *, blur, noise, rng):
  """Slightly blurred and noisy, as an autoencoder leaves a picture."""
  blurred = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(blur))
  values = np.asarray(blurred, np.float32) / 255
  values += rng.normal(0, noise, values.shape).astype(np.float32)
  return np.clip(values, 0, 1)


def picture(config, kind, things, relation=None):
  """A picture of objects (name, x, y, color), whatever the dataset would say."""
  objects = tuple(
    emoji_rendering.Object(name, x, y, config.sprites[0], color)
    for name, x, y, color in things
  )
  tiles = relation if kind == 'binding' else None
  pixels = emoji_rendering.render(objects, tiles, config.size)
  background = None if tiles else objects[0].color
  return emoji_rendering.Picture(kind, objects, background, relation, '', pixels)


@pytest.mark.parametrize('config', [MINI, FREE], ids=['mini', 'free'])
@pytest.mark.parametrize('split', ['test', 'heldout'])
def test_the_datasets_own_pictures_are_right(config, split):
  count = (128 if config is MINI else 16) if split == 'test' else 16
  for kind in ('single', 'count', 'pair', 'binding'):
    asked = take(only(config, kind), count, split)
    rows = scorer.aggregate(config, asked, [scene.pixels for scene in asked])
    assert set(rows) < ROWS
    assert min(rows.values()) == 1


def test_all_glyphs_are_told_apart():
  asked = take(ALL, 6)
  rows = scorer.aggregate(ALL, asked, [scene.pixels for scene in asked])
  assert min(rows.values()) == 1


@pytest.mark.parametrize(('config', 'count'), [(MINI, 256), (FREE, 32)])
def test_worn_pictures_are_right(config, count):
  rng = np.random.default_rng(0)
  asked = take(config, count)
  worn = [wear(scene.pixels, blur=0.4, noise=0.03, rng=rng) for scene in asked]
  rows = scorer.aggregate(config, asked, worn)
  assert rows.keys() == ROWS
  assert min(rows.values()) >= 0.99


def test_pictures_of_stories_are_right():
  for story in take(only(MINI, 'story'), 20):
    for part in story.pictures:
      result = scorer.score(MINI, part, part.pixels)
      assert result.objects
      assert result.background
      assert result.relation in (None, True)
    with pytest.raises(ValueError, match='found a story'):
      scorer.score(MINI, story, story.pictures[0].pixels)


@pytest.mark.parametrize('name', ['fox', 'guitar', 'penguin'])
def test_another_glyph_is_wrong(name):
  asked = picture(MINI, 'single', [('panda', 8, 8, 'blue')])
  shown = picture(MINI, 'single', [(name, 8, 8, 'blue')])
  result = scorer.score(MINI, asked, shown.pixels)
  assert not result.objects
  assert result.background


def test_another_background_is_wrong():
  for one, other in itertools.permutations(tuple(emoji_glyphs.COLORS)[:6], 2):
    asked = picture(MINI, 'single', [('panda', 8, 8, one)])
    shown = picture(MINI, 'single', [('panda', 8, 8, other)])
    result = scorer.score(MINI, asked, shown.pixels)
    assert result.objects
    assert not result.background


@pytest.mark.parametrize('relation', ['left', 'right', 'above', 'below'])
def test_a_relation_is_right_or_swapped(relation):
  places = {'left': (0, 8), 'right': (16, 8), 'above': (8, 0), 'below': (8, 16)}
  opposite = {'left': 'right', 'right': 'left', 'above': 'below', 'below': 'above'}
  for shown in places:
    first, second = places[shown], places[opposite[shown]]
    things = [('panda', *first, 'blue'), ('fox', *second, 'blue')]
    asked = dataclasses.replace(picture(MINI, 'pair', things, shown), relation=relation)
    result = scorer.score(MINI, asked, asked.pixels)
    assert result.objects
    assert result.relation == (shown == relation)


def test_a_missing_a_double_and_an_additional_object_are_wrong():
  asked = picture(
    MINI, 'pair', [('panda', 0, 8, 'pink'), ('fox', 16, 8, 'pink')], 'left'
  )
  for things in (
    [('panda', 0, 8, 'pink')],
    [('panda', 0, 8, 'pink'), ('panda', 16, 8, 'pink')],
  ):
    result = scorer.score(MINI, asked, picture(MINI, 'count', things).pixels)
    assert not result.objects
    assert result.relation is None  # not both found
  alone = picture(MINI, 'single', [('panda', 8, 8, 'pink')])
  assert not scorer.score(MINI, alone, asked.pixels).objects


@pytest.mark.parametrize('shown', [1, 2, 3, 4])
def test_counting_is_exact(shown):
  slots = [(0, 0), (16, 0), (0, 16), (16, 16)]
  asked, drawn = (
    picture(MINI, 'count', [('banana', *slot, 'gray') for slot in slots[:count]])
    for count in (3, shown)
  )
  assert scorer.score(MINI, asked, drawn.pixels).counting == (shown == 3)


def test_binding_wants_each_object_on_its_own_color():
  def tiles(left, right):
    things = [('panda', 0, 8, left), ('fox', 16, 8, right)]
    return picture(MINI, 'binding', things, 'left')

  asked = tiles('green', 'blue')
  assert scorer.score(MINI, asked, asked.pixels).binding
  swapped = scorer.score(MINI, asked, tiles('blue', 'green').pixels)
  assert swapped.objects
  assert not swapped.binding
  assert not scorer.score(MINI, asked, tiles('green', 'pink').pixels).binding
  assert not scorer.score(MINI, asked, tiles('green', 'green').pixels).binding


def test_halves_of_two_glyphs_are_neither():
  """The mixtures that undertrained models draw count as no object."""
  names = [glyph.name for glyph in emoji_glyphs.select(16)]
  accepted = 0
  for index, (one, other) in enumerate(itertools.permutations(names, 2)):
    color = ('blue', 'white', 'gray')[index % 3]
    first, second = (
      picture(MINI, 'single', [(name, 8, 8, color)]) for name in (one, other)
    )
    mixed = first.pixels.copy()
    half = np.s_[:, 16:] if index % 2 else np.s_[16:]
    mixed[half] = second.pixels[half]
    accepted += scorer.score(MINI, first, mixed).objects
    accepted += scorer.score(MINI, second, mixed).objects
  assert accepted == 0


@pytest.mark.parametrize('value', [0.0, 0.5, 1.0, np.nan])
def test_nothing_is_found_in_nothing(value):
  pixels = np.full((32, 32, 3), value, np.float32)
  assert scorer.detect(MINI, pixels, None).objects == ()
  noise = np.random.default_rng(0).random((32, 32, 3)).astype(np.float32)
  assert scorer.detect(MINI, noise, None).objects == ()


def test_floats_and_bytes_are_read_alike():
  scene = take(MINI, 1)[0]
  floats = (scene.pixels / 255).astype(np.float32)
  one, other = (scorer.detect(MINI, pixels, None) for pixels in (scene.pixels, floats))
  assert one.objects == other.objects
  with pytest.raises(ValueError, match='32 x 32 x 3'):
    scorer.detect(MINI, floats[:16], None)


@pytest.mark.parametrize(
  ('text', 'correct', 'relation'),
  [
    ('a panda to the left of a fox on a blue background', True, True),
    ('a fox to the right of a panda on a blue background', True, True),
    ('a fox to the left of a panda on a blue background', True, False),
    ('a panda above a fox on a blue background', True, False),
    ('a panda to the left of a fox on a pink background', False, True),
    ('a panda to the left of a frog on a blue background', False, None),
    ('a panda on a blue background', False, None),
    ('two pandas on a blue background', False, None),
    ('a panda on a blue tile to the left of a fox on a blue tile', False, True),
    ('a panda to the left of', False, None),
    ('', False, None),
  ],
)
def test_captions_of_a_pair(text, correct, relation):
  things = [('panda', 0, 8, 'blue'), ('fox', 16, 8, 'blue')]
  asked = picture(MINI, 'pair', things, 'left')
  assert scorer.caption_correct(MINI, asked, text) == correct
  assert scorer.caption_relation_correct(MINI, asked, text) == relation


def test_own_captions_are_correct():
  for scene in take(MINI, 200):
    assert scorer.caption_correct(MINI, scene, scene.caption)
    assert scorer.caption_relation_correct(MINI, scene, scene.caption) in (None, True)


@pytest.mark.parametrize(
  ('text', 'correct'),
  [
    ('three bananas on a gray background', True),
    ('two bananas on a gray background', False),
    ('a banana on a gray background', False),
  ],
)
def test_captions_of_a_count(text, correct):
  slots = [(0, 0), (16, 0), (0, 16)]
  asked = picture(MINI, 'count', [('banana', *slot, 'gray') for slot in slots])
  assert scorer.caption_correct(MINI, asked, text) == correct
