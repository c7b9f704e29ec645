"""Edits: what is written can be read, and nothing changes but what is asked for."""

import numpy as np
import pytest

from transfusion_jax.data.emoji import captions as emoji_captions
from transfusion_jax.data.emoji import edits as emoji_edits
from transfusion_jax.data.emoji import glyphs as emoji_glyphs
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.emoji import tasks as emoji_tasks

COLORS = tuple(emoji_glyphs.COLORS)
Edit = emoji_edits.Edit


def all_names() -> tuple[str, ...]:
  return tuple(glyph.name for glyph in emoji_glyphs.select(0))


def take(config, count, split='train'):
  source = emoji_scenes.EmojiScenes(config, split)
  tasks = emoji_tasks.Edits(config, split, source)
  return [tasks[index] for index in range(count)]


def test_reading_undoes_writing_for_every_glyph():
  names = all_names()
  edits = [Edit('ground', (), color) for color in COLORS]
  for index, name in enumerate(names):
    pair = (name, names[index - 1])
    edits += [Edit('replace', pair, None), Edit('swap', pair, None)]
    edits += [Edit('add', pair, relation) for relation in emoji_captions.RELATIONS]
    edits.append(Edit('remove', (name,), None))
    if emoji_captions.countable(name):
      edits.append(Edit('count', (name,), ('two', 'three', 'four')[index % 3]))
  for edit in edits:
    assert emoji_edits.read(emoji_edits.write(edit), names, COLORS) == edit


@pytest.mark.parametrize(
  'nonsense',
  [
    '',
    'make the background mauve',
    'make it five pandas',
    'make it three panda',
    'make three pandas',
    'replace the panda with fox',
    'replace a panda with a fox',
    'swap the panda and a fox',
    'add a panda beside the fox',
    'remove panda',
    'paint the panda',
  ],
)
def test_what_is_no_edit_means_nothing(nonsense):
  assert emoji_edits.read(nonsense, all_names(), COLORS) is None


def square(pixels, thing):
  return pixels[thing.y : thing.y + thing.size, thing.x : thing.x + thing.size]


def gone(edited):
  """What is in one of the pictures, and not in the same place in the other."""
  before, after = (set(each.objects) for each in (edited.before, edited.after))
  return before ^ after


@pytest.mark.parametrize('name', ['mini', 'free', 'everything'])
def test_nothing_else_changes(name, request):
  config = request.getfixturevalue(name)
  kinds = set()
  for edited in take(config, 60 if name == 'everything' else 250):
    kinds.add(edited.edit.kind)
    before, after = edited.before.pixels, edited.after.pixels
    same = (before == after).all(-1)
    if edited.edit.kind == 'ground':
      assert not same[0, 0]  # the corners of glyphs are bare
      assert [thing.name for thing in edited.before.objects] == [
        thing.name for thing in edited.after.objects
      ]
      continue
    for thing in gone(edited):
      square(same, thing)[:] = True
    assert same.all()
  assert kinds == set(emoji_edits.KINDS)


def test_every_kind_does_what_it_says(free):
  for edited in take(free, 250):
    edit, before, after = edited.edit, edited.before, edited.after
    old, new = ([thing.name for thing in each.objects] for each in (before, after))
    if edit.kind == 'ground':
      assert {thing.color for thing in after.objects} == {edit.value}
      assert after.relation == before.relation
    elif edit.kind == 'replace':
      assert [edit.names[1] if name == edit.names[0] else name for name in old] == new
    elif edit.kind == 'swap':
      assert sorted(old) == sorted(new) == sorted(edit.names)
      assert after.relation == emoji_captions.OPPOSITES[before.relation]
    elif edit.kind == 'add':
      assert new == [edit.names[0], *old]
      assert after.relation == edit.value
    elif edit.kind == 'remove':
      assert new == [name for name in old if name != edit.names[0]]
    else:
      assert new == [old[0]] * emoji_captions.COUNTS[edit.value]
    assert emoji_captions.read(after.caption, all_names()).names == tuple(new)


def test_pictures_are_as_their_captions_say(free):
  """Swapped things lie as related, inside and apart, whatever their sizes."""
  for edited in take(free, 250):
    things = edited.after.objects
    for thing in things:
      assert min(thing.x, thing.y) >= 0
      assert max(thing.x, thing.y) + thing.size <= free.size
    if edited.after.relation:
      one, two = things
      ends = {
        'left': one.x + one.size <= two.x,
        'right': two.x + two.size <= one.x,
        'above': one.y + one.size <= two.y,
        'below': two.y + two.size <= one.y,
      }
      assert ends[edited.after.relation]
    elif len(things) > 1:
      covered = np.zeros((free.size, free.size), int)
      for thing in things:
        square(covered, thing)[:] += 1
      assert covered.max() == 1


def test_only_the_result_is_learnt(mini):
  edited = take(mini, 1)[0]
  before, said, after = edited.document()
  assert (before.learn, before.noise_cap) == (False, 0.0)
  assert not said.learn
  assert said.text == emoji_edits.write(edited.edit)
  assert (after.learn, after.noise_cap) == (True, 1.0)
  assert after.pixels is edited.after.pixels
