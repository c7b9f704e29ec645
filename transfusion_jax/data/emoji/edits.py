"""The grammar of edits of emoji scenes: asks for a change, reads it, and makes it.

  ground   make the background green
  replace  replace the panda with a fox
  swap     swap the panda and the guitar
  add      add a guitar to the left of the panda
  remove   remove the guitar
  count    make it three bananas

What an edit does not ask for stays in place. One object makes room for another that is
added; which of several come or go is left to chance. `read(write(edit)) == edit`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

from transfusion_jax.data import documents
from transfusion_jax.data.emoji import captions, rendering

KINDS = ('ground', 'replace', 'swap', 'add', 'remove', 'count')


@dataclasses.dataclass(frozen=True)
class Edit:
  """Change that an instruction asks for.

  Attributes:
    kind: one of KINDS.
    names: what is replaced and by what; what changes places; what is added, and beside
      what; what is removed, or counted; none where the background changes.
    value: the colour, the relation of what is added, or the number in words; or None.
  """

  kind: str
  names: tuple[str, ...]
  value: str | None


@dataclasses.dataclass(frozen=True, eq=False)
class Edited:
  """A picture, what is to change, and the picture that results."""

  before: rendering.Picture
  edit: Edit
  after: rendering.Picture

  def document(self) -> documents.Document:
    """Picture (clean) and instruction as context, and the picture that results."""
    return (
      documents.Image(self.before.pixels, learn=False, noise_cap=0.0),
      documents.Text(write(self.edit), learn=False),
      documents.Image(self.after.pixels, learn=True, noise_cap=1.0),
    )


def write(edit: Edit) -> str:
  """The instruction in words."""
  names, value = edit.names, edit.value
  if edit.kind == 'ground':
    return f'make the background {value}'
  if edit.kind == 'replace':
    return f'replace the {names[0]} with {_thing(names[1])}'
  if edit.kind == 'swap':
    return f'swap the {names[0]} and the {names[1]}'
  if edit.kind == 'add':
    relation = captions.RELATIONS[value]
    return f'add {_thing(names[0])} {relation} the {names[1]}'
  if edit.kind == 'remove':
    return f'remove the {names[0]}'
  return f'make it {value} {captions.plural(names[0])}'


def read(text: str, names: tuple[str, ...], colors: tuple[str, ...]) -> Edit | None:
  """Parses an instruction with these objects and colours; None if it is no edit."""
  verb, _, rest = ' '.join(text.lower().split()).partition(' ')
  things, known, several = _tables(names)
  color = rest.removeprefix('the background ')
  number, _, counted = rest.removeprefix('it ').partition(' ')
  if verb == 'make' and color != rest:
    return Edit('ground', (), color) if color in colors else None
  if verb == 'make' and rest.startswith('it ') and counted in several:
    known_number = number in captions.COUNTS
    return Edit('count', (several[counted],), number) if known_number else None
  if verb == 'remove' and rest in known:
    return Edit('remove', (known[rest],), None)
  if verb == 'replace':
    return _read_two('replace', rest, 'with', known, things, None)
  if verb == 'swap':
    return _read_two('swap', rest, 'and', known, known, None)
  if verb == 'add':
    found = [
      _read_two('add', rest, words, things, known, relation)
      for relation, words in captions.RELATIONS.items()
    ]
    return next(filter(None, found), None)
  return None


def make(
  picture: rendering.Picture,
  edit: Edit,
  places: Sequence[tuple[int, int, int]],
) -> rendering.Picture:
  """The picture that results.

  Args:
    picture: what is edited.
    edit: something that can be done to it.
    places: left, top and size of every object of a pair that 'add' results in, or of
      all that are counted.
  """
  things, relation, kind = picture.objects, picture.relation, picture.kind
  if edit.kind == 'ground':
    things = [dataclasses.replace(thing, color=edit.value) for thing in things]
  elif edit.kind == 'replace':
    old, new = edit.names
    things = [
      dataclasses.replace(thing, name=new if thing.name == old else thing.name)
      for thing in things
    ]
  elif edit.kind == 'swap':
    things = _swapped(things, relation, len(picture.pixels))
    relation = captions.OPPOSITES[relation]
  elif edit.kind == 'remove':
    things = [thing for thing in things if thing.name not in edit.names]
    kind, relation = 'single', None
  else:
    names = edit.names if edit.kind == 'add' else edit.names * len(places)
    things = [
      rendering.Object(name, *place, things[0].color)
      for name, place in zip(names, places, strict=True)
    ]
    kind = 'pair' if edit.kind == 'add' else 'count'
    relation = edit.value if edit.kind == 'add' else None
  meaning = captions.Meaning(
    kind,
    tuple(thing.name for thing in things),
    tuple(thing.color for thing in things),
    relation,
  )
  where = [(thing.x, thing.y, thing.size) for thing in things]
  return rendering.draw(meaning, where, len(picture.pixels), later=False)


def vocabulary() -> set[str]:
  """Every word of edits that captions of the same objects and colours do not need."""
  return set('make the background it replace with swap and add remove'.split())


def longest(
  names: Sequence[str], colors: Sequence[str], measure: Callable[[str], int]
) -> int:
  """Most text, by `measure`, of an edit of objects and colours so called."""
  pair = tuple(sorted(names, key=measure)[:-3:-1])
  edits = [Edit('ground', (), color) for color in colors]
  edits += [Edit('add', pair, 'right'), Edit('replace', pair, None)]
  for name in filter(captions.countable, names):
    edits.append(Edit('count', (name,), captions.NUMBERS[3]))
  return max(measure(write(edit)) for edit in edits)


def _swapped(things, relation: str, side: int) -> list[rendering.Object]:
  """Two objects in each other's places, their outer edges where they were."""
  axis, across = 'xy' if relation in ('left', 'right') else 'yx'
  low, high = sorted(things, key=lambda thing: getattr(thing, axis))
  far = getattr(high, axis) + high.size - low.size
  moved = {
    low: {axis: far, across: _centred(low, high, across, side)},
    high: {axis: getattr(low, axis), across: _centred(high, low, across, side)},
  }
  return [dataclasses.replace(thing, **moved[thing]) for thing in things]


def _centred(thing, other, axis: str, side: int) -> int:
  """Offset at which one object begins if its middle is where that of another is."""
  place = (2 * getattr(other, axis) + other.size - thing.size) // 2
  return min(max(place, 0), side - thing.size)


def _thing(name: str) -> str:
  return f'{captions.article(name)} {name}'


@functools.lru_cache(maxsize=8)
def _tables(names: tuple[str, ...]) -> tuple[dict[str, str], ...]:
  """The names by 'a name', by 'the name', and by their plural."""
  countable = filter(captions.countable, names)
  return (
    {_thing(name): name for name in names},
    {f'the {name}': name for name in names},
    {captions.plural(name): name for name in countable},
  )


def _read_two(kind, phrase, between, left: Mapping, right: Mapping, value):
  """Reads 'X between Y'; the word may be part of a name as well."""
  between = f' {between} '
  at = phrase.find(between)
  while at >= 0:
    sides = phrase[:at], phrase[at + len(between) :]
    if sides[0] in left and sides[1] in right:
      return Edit(kind, (left[sides[0]], right[sides[1]]), value)
    at = phrase.find(between, at + 1)
  return None
