"""Tasks on emoji scenes besides captioning: questions and edits.

Task `index` of a split is a function of (seed, split, index) only, and is about the
last picture of the scene with this index. What is held out of training is in no result
of an edit either, except in the split that is all about it.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from transfusion_jax.data.emoji import (
  captions,
  edits,
  glyphs,
  held_out,
  placement,
  questions,
  rendering,
)
from transfusion_jax.data.emoji import scenes as emoji_scenes

FORMS = ('captioned', 'question', 'edit')
"""Kinds of documents that are made of scenes."""

_STREAM = 4  # of random numbers; those below are the scenes'
_TRIES = 100


class Questions:
  """Questions about every scene, one of every kind that it answers."""

  def __init__(
    self,
    config: emoji_scenes.EmojiScenesConfig,
    split: str,
    scenes: emoji_scenes.Source,
  ):
    self._config, self._split, self._scenes = config, split, scenes

  def __len__(self) -> int:
    return len(self._scenes)

  def __getitem__(self, index: int) -> questions.Asked:
    found = self.ask(index, questions.KINDS)
    assert found is not None  # colours can be asked for in all of them
    return found

  def ask(self, index: int, kinds: Sequence[str]) -> questions.Asked | None:
    """A question of each of these kinds, if the scene answers any."""
    rng = _generator(self._config, self._split, 'question', index)
    return questions.ask(rng, self._scenes[index].pictures[-1], kinds)


class Edits:
  """An edit of every scene."""

  def __init__(
    self,
    config: emoji_scenes.EmojiScenesConfig,
    split: str,
    scenes: emoji_scenes.Source,
  ):
    self._config, self._split, self._scenes = config, split, scenes
    self._names = _names(config)
    self._numbers = {name: number for number, name in enumerate(self._names)}
    self._colors = tuple(glyphs.COLORS)[: config.colors]
    self._pool = held_out.choose(
      seed=config.seed,
      glyphs=len(self._names),
      colors=config.colors,
      share=config.heldout,
      heldout=False,
    )
    self._edits = {
      'ground': self._ground,
      'replace': self._replace,
      'swap': self._swap,
      'add': self._add,
      'remove': self._remove,
      'count': self._count,
    }

  def __len__(self) -> int:
    return len(self._scenes)

  def __getitem__(self, index: int) -> edits.Edited:
    """The edit of a scene.

    Raises:
      ValueError: nothing of it can be changed into what is not held out.
    """
    found = self.edit(index, edits.KINDS)
    if found is None:
      raise ValueError(
        f'expected a scene that can be edited, found none at {index}; use more glyphs '
        'or colors'
      )
    return found

  def edit(self, index: int, kinds: Sequence[str]) -> edits.Edited | None:
    """An edit of one of these kinds, if the scene allows any."""
    rng = _generator(self._config, self._split, 'edit', index)
    before = self._scenes[index].pictures[-1]
    possible = [kind for kind in _POSSIBLE[before.kind] if kind in kinds]
    for kind in rng.permutation(possible) if possible else ():
      for _ in range(_TRIES):
        edit = self._edits[kind](rng, before)
        if edit is None:
          break
        places = self._places(rng, before, edit)
        if places is None:
          continue
        after = edits.make(before, edit, places)
        if self._split == 'heldout' or self._pool.holds(self._things(after)):
          return edits.Edited(before, edit, after)
    return None

  def _things(self, picture: rendering.Picture) -> set[tuple[int, int]]:
    return {
      (self._numbers[thing.name], self._colors.index(thing.color))
      for thing in picture.objects
    }

  def _ground(self, rng, before) -> edits.Edit:
    others = [color for color in self._colors if color != before.background]
    return edits.Edit('ground', (), _choose(rng, others))

  def _replace(self, rng, before) -> edits.Edit | None:
    there = [thing.name for thing in before.objects]
    new = self._other(rng, there)
    return new and edits.Edit('replace', (_choose(rng, there), new), None)

  def _swap(self, rng, before) -> edits.Edit:
    names = [thing.name for thing in before.objects]
    return edits.Edit('swap', tuple(map(str, rng.permutation(names))), None)

  def _add(self, rng, before) -> edits.Edit | None:
    there = before.objects[0].name
    new = self._other(rng, [there])
    relation = _choose(rng, tuple(captions.RELATIONS))
    return new and edits.Edit('add', (new, there), relation)

  def _remove(self, rng, before) -> edits.Edit:
    return edits.Edit('remove', (_choose(rng, before.objects).name,), None)

  def _count(self, rng, before) -> edits.Edit:
    numbers = [n for n in captions.NUMBERS if n != len(before.objects)]
    said = captions.NUMBERS[_choose(rng, numbers)]
    return edits.Edit('count', (before.objects[0].name,), said)

  def _other(self, rng, there: Collection[str]) -> str | None:
    """An object that is not there, if there is any."""
    new = _choose(rng, self._names)
    while new in there and len(self._names) > len(there):
      new = _choose(rng, self._names)
    return None if new in there else new

  def _places(self, rng, before, edit) -> list[placement.Square] | None:
    """Left, top and size of all objects of a pair or a count that is to be."""
    config = self._config
    squares = [(thing.x, thing.y, thing.size) for thing in before.objects]
    if edit.kind == 'add':
      sizes = [_choose(rng, config.sprites), squares[0][2]]
      corners = placement.place(
        rng, 'pair', edit.value, sizes, config.size, config.placement
      )
      return [(x, y, size) for (x, y), size in zip(corners, sizes, strict=True)]
    if edit.kind == 'count':
      return self._counted(rng, squares, captions.COUNTS[edit.value])
    return squares

  def _counted(self, rng, squares, count) -> list[placement.Square] | None:
    """Some of the squares, or all and more, to be `count`."""
    config = self._config
    while len(squares) > count:
      squares.pop(int(rng.integers(len(squares))))
    while len(squares) < count:
      size = _choose(rng, config.sprites)
      corner = placement.join(rng, squares, size, config.size, config.placement)
      if corner is None:
        return None
      squares.append((*corner, size))
    return squares


_POSSIBLE = {
  'single': ('ground', 'replace', 'add'),
  'count': ('ground', 'count'),
  'pair': ('ground', 'replace', 'swap', 'remove'),
  'binding': ('replace',),
}
"""Edits of every kind of picture."""


def make(
  form: str,
  config: emoji_scenes.EmojiScenesConfig,
  split: str,
  scenes: emoji_scenes.Source,
) -> emoji_scenes.Source | Questions | Edits:
  """Items that documents of a form are made of: the scenes, or tasks on them.

  Args:
    form: one of FORMS.
    config: of the scenes.
    split: of the scenes.
    scenes: drawn or stored.
  """
  if form == 'question':
    return Questions(config, split, scenes)
  return Edits(config, split, scenes) if form == 'edit' else scenes


def vocabulary(
  config: emoji_scenes.EmojiScenesConfig, forms: Collection[str]
) -> tuple[str, ...]:
  """Every word that documents of these forms can hold, sorted."""
  words = set(emoji_scenes.vocabulary(config))
  if 'question' in forms:
    words |= questions.vocabulary(_names(config))
  if 'edit' in forms:
    words |= edits.vocabulary()
  return tuple(sorted(words))


def longest_documents(
  config: emoji_scenes.EmojiScenesConfig,
  forms: Collection[str],
  measure: Callable[[str], int],
) -> list[tuple[int, int]]:
  """For every kind of document of these forms: most pictures, and most text."""
  names = _names(config)
  colors = tuple(glyphs.COLORS)[: config.colors]
  found = []
  if 'captioned' in forms:
    found += emoji_scenes.longest_documents(config, measure)
  if 'question' in forms:
    found += [(1, questions.longest(names, colors, measure))]
  if 'edit' in forms:
    found += [(2, edits.longest(names, colors, measure))]
  return found


def _names(config: emoji_scenes.EmojiScenesConfig) -> tuple[str, ...]:
  return tuple(glyph.name for glyph in glyphs.select(config.glyphs))


def _generator(config, split: str, form: str, index: int) -> np.random.Generator:
  stream = _STREAM + FORMS.index(form)
  entropy = (config.seed, stream, emoji_scenes.SPLITS.index(split), int(index))
  return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def _choose(rng, options):
  return options[int(rng.integers(len(options)))]
