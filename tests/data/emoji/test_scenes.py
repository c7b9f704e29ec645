"""Scenes: determinism, splits, held-out combinations, placement, documents."""

import dataclasses
import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest

from transfusion_jax.data import documents
from transfusion_jax.data.emoji import captions as emoji_captions
from transfusion_jax.data.emoji import glyphs as emoji_glyphs
from transfusion_jax.data.emoji import rendering as emoji_rendering
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.text import tokenizers

CONFIGS = ('mini', 'free', 'everything')


def take(config, split, count):
  source = emoji_scenes.EmojiScenes(config, split)
  return [source[index] for index in range(count)]


def summary(scene):
  parts = [(picture.caption, picture.objects) for picture in scene.pictures]
  return scene.kind, scene.caption_first, scene.caption_dropped, tuple(parts)


@pytest.fixture(params=CONFIGS)
def config(request):
  return request.getfixturevalue(request.param)


def test_a_scene_is_a_function_of_seed_split_and_index(config):
  source = emoji_scenes.EmojiScenes(config, 'train')
  again = emoji_scenes.EmojiScenes(config, 'train')
  for index in (7, 0, len(source) - 1):
    one, two = source[index], again[index]
    assert summary(one) == summary(two)
    for here, there in zip(one.pictures, two.pictures, strict=True):
      np.testing.assert_array_equal(here.pixels, there.pixels)
  reseeded = emoji_scenes.EmojiScenes(dataclasses.replace(config, seed=1), 'train')
  test = emoji_scenes.EmojiScenes(config, 'test')
  for other in (reseeded, test):
    assert [summary(other[k]) for k in range(9)] != [
      summary(source[k]) for k in range(9)
    ]


def test_a_fresh_process_draws_the_same(mini):
  program = (
    'import hashlib, sys\n'
    'from transfusion_jax.data.emoji import scenes as emoji_scenes\n'
    f'config = emoji_scenes.{mini!r}\n'
    'source = emoji_scenes.EmojiScenes(config, "train")\n'
    'data = b"".join(p.pixels.tobytes() '
    'for k in range(50) for p in source[k].pictures)\n'
    'print(hashlib.sha256(data).hexdigest(), "jax" in sys.modules)\n'
  )
  scenes = take(mini, 'train', 50)
  pixels = b''.join(p.pixels.tobytes() for scene in scenes for p in scene.pictures)
  expected = hashlib.sha256(pixels).hexdigest()
  result = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert result.stdout.split() == [expected, 'False']  # and without jax


def combinations_of(scene):
  """All pairs of objects that appear together, and all objects on their colours."""
  names = {thing.name for picture in scene.pictures for thing in picture.objects}
  pairs = {frozenset(pair) for pair in itertools.combinations(sorted(names), 2)}
  colors = {
    (thing.name, thing.color) for picture in scene.pictures for thing in picture.objects
  }
  return pairs, colors


def test_what_is_held_out_is_in_no_other_split(mini):
  seen_pairs, seen_colors = set(), set()
  for split in ('train', 'test'):
    for scene in take(mini, split, 1500):
      pairs, colors = combinations_of(scene)
      seen_pairs |= pairs
      seen_colors |= colors
  assert len(seen_pairs) == 120 - 12  # a tenth of 16 * 15 / 2 is held out,
  assert len(seen_colors) == 96 - 10  # and of 16 * 6
  for scene in take(mini, 'heldout', 300):
    pairs, colors = combinations_of(scene)
    if scene.kind in ('single', 'count'):
      assert colors.isdisjoint(seen_colors)
    else:
      assert pairs.isdisjoint(seen_pairs)
      assert colors <= seen_colors  # one thing is new, not two


@pytest.mark.parametrize('split', emoji_scenes.SPLITS)
def test_captions_say_what_the_pictures_hold(config, split):
  names = tuple(glyph.name for glyph in emoji_glyphs.select(config.glyphs))
  words = tokenizers.Words(emoji_scenes.vocabulary(config), reserved=0, multiple=8)
  for scene in take(config, split, 40):
    for picture in scene.pictures:
      meaning = emoji_captions.read(picture.caption, names)
      assert meaning.kind == picture.kind
      assert meaning.names == tuple(thing.name for thing in picture.objects)
      assert meaning.colors == tuple(thing.color for thing in picture.objects)
      assert meaning.relation == picture.relation
      assert words.decode(words.encode(picture.caption)) == picture.caption


def test_objects_are_inside_apart_and_as_related(config):
  for scene in take(config, 'train', 150):
    for picture in scene.pictures:
      for thing in picture.objects:
        assert thing.size in config.sprites
        assert min(thing.x, thing.y) >= 0
        assert max(thing.x, thing.y) + thing.size <= config.size
      for one, two in itertools.combinations(picture.objects, 2):
        assert (
          one.x + one.size <= two.x
          or two.x + two.size <= one.x
          or one.y + one.size <= two.y
          or two.y + two.size <= one.y
        )
      if picture.relation:
        one, two = picture.objects
        ends = {
          'left': one.x + one.size <= two.x,
          'right': two.x + two.size <= one.x,
          'above': one.y + one.size <= two.y,
          'below': two.y + two.size <= one.y,
        }
        assert ends[picture.relation]


def test_mini_slots(mini):
  corners = {'single': set(), 'pair': set(), 'count': set()}
  for scene in take(dataclasses.replace(mini, binding=0.0, story=0.0), 'train', 400):
    for thing in scene.picture.objects:
      corners[scene.kind].add((thing.x, thing.y))
  slots = {
    'single': {(8, 8)},
    'pair': {(0, 8), (16, 8), (8, 0), (8, 16)},
    'count': {(0, 0), (16, 0), (0, 16), (16, 16)},
  }
  assert corners == slots


def test_pixels_are_ground_where_there_is_no_object(config):
  for scene in take(config, 'train', 40):
    for picture in scene.pictures:
      if picture.background is None:
        continue
      free = np.ones(picture.pixels.shape[:2], bool)
      for thing in picture.objects:
        free[thing.y : thing.y + thing.size, thing.x : thing.x + thing.size] = False
      assert (picture.pixels[free] == emoji_glyphs.COLORS[picture.background]).all()


def test_stories_change_one_thing_at_a_time(mini):
  config = dataclasses.replace(mini, single=0.0, count=0.0, pair=0.0, binding=0.0)
  for scene in take(config, 'train', 200):
    assert 2 <= len(scene.pictures) <= 4
    assert [p.caption.startswith('then ') for p in scene.pictures] == [
      index > 0 for index in range(len(scene.pictures))
    ]
    for one, two in itertools.pairwise(scene.pictures):
      changes = [
        len(one.objects) != len(two.objects),
        one.background != two.background,
        None not in (one.relation, two.relation) and one.relation != two.relation,
      ]
      assert sum(changes) == 1
    assert len(scene.pictures[-1].objects) == 2


def test_documents(mini):
  orders = {}
  for scene in take(mini, 'train', 3000):
    document = scene.document()
    kinds = ''.join('t' if isinstance(s, documents.Text) else 'i' for s in document)
    caps = {s.noise_cap for s in document if isinstance(s, documents.Image)}
    assert all(segment.learn for segment in document)
    assert caps == ({0.5} if kinds == 'it' else {1.0})
    if scene.kind == 'story':
      assert kinds == 'ti' * len(scene.pictures)
    else:
      orders[kinds] = orders.get(kinds, 0) + 1
  total = sum(orders.values())
  assert orders.keys() == {'ti', 'it', 'i'}
  assert abs(orders['it'] / total - 0.2) < 0.03
  assert abs(orders['i'] / total - 0.08) < 0.02


def test_weights_choose_the_kinds(mini):
  config = dataclasses.replace(mini, single=3.0, binding=0.0, story=0.0)
  kinds = [scene.kind for scene in take(config, 'train', 1000)]
  assert abs(kinds.count('single') / 1000 - 0.6) < 0.05
  assert 'binding' not in kinds
  assert 'story' not in kinds


def test_a_tile_is_half_of_the_picture():
  things = (
    emoji_rendering.Object('panda', 0, 8, 16, 'blue'),
    emoji_rendering.Object('fox', 16, 8, 16, 'pink'),
  )
  pixels = emoji_rendering.render(things, 'left', 32)
  assert (pixels[:8, :16] == emoji_glyphs.COLORS['blue']).all()
  assert (pixels[:8, 16:] == emoji_glyphs.COLORS['pink']).all()


def test_longest_documents_bound_what_is_drawn(mini):
  words = tokenizers.Words(emoji_scenes.vocabulary(mini), reserved=0, multiple=8)
  bounds = emoji_scenes.longest_documents(mini, lambda text: len(words.encode(text)))
  most_pictures = max(pictures for pictures, _ in bounds)
  most_words = max(count for _, count in bounds)
  reached = 0
  for scene in take(mini, 'train', 1000):
    count = sum(len(words.encode(picture.caption)) for picture in scene.pictures)
    assert len(scene.pictures) <= most_pictures
    assert count <= most_words
    reached = max(reached, count)
  assert reached >= most_words - 4  # and is not far from it


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'size': 30}, 'multiple of 4'),
    ({'sprites': (17,)}, 'sprites of 4 to 16 pixels'),
    ({'sprites': ()}, 'sprites'),
    ({'colors': 11}, '2 to 10 colors, found 11'),
    ({'heldout': 1.5}, 'heldout from 0 to 1, found 1.5'),
    ({'single': -1.0}, 'weights of at least 0'),
    ({'frames': 5}, '2 to 4 frames'),
    ({'glyphs': 1}, 'at least 2 glyphs'),
  ],
)
def test_bad_configs(mini, changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(mini, **changes)


def test_bad_splits(mini):
  with pytest.raises(ValueError, match="found 'validation'"):
    emoji_scenes.EmojiScenes(mini, 'validation')
  nothing = dataclasses.replace(mini, heldout=0.0)
  with pytest.raises(ValueError, match='held-out share that leaves scenes'):
    emoji_scenes.EmojiScenes(nothing, 'heldout')
  assert take(nothing, 'train', 3)
  stories = dataclasses.replace(mini, single=0.0, count=0.0, pair=0.0, binding=0.0)
  story = take(stories, 'train', 1)[0]
  with pytest.raises(ValueError, match='found a story of'):
    _ = story.pixels
