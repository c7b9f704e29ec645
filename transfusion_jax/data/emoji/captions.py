"""The grammar of emoji scenes: writes a caption, and reads one back exactly.

  single   a panda on a blue background
  count    three bananas on a pink background
  pair     a panda to the left of a guitar on a yellow background
  binding  a panda on a green tile above a guitar on a blue tile
           (the picture is cut in two halves, one tile each)

The later captions of a story start with 'then'. `read(write(meaning)) == meaning`.
"""

import dataclasses
import functools

RELATIONS = {
  'left': 'to the left of',
  'right': 'to the right of',
  'above': 'above',
  'below': 'below',
}
OPPOSITES = {'left': 'right', 'right': 'left', 'above': 'below', 'below': 'above'}
NUMBERS = {2: 'two', 3: 'three', 4: 'four'}
COUNTS = {word: count for count, word in NUMBERS.items()}
THEN = 'then'

_PREPOSITIONS = {
  *('with', 'of', 'in', 'on', 'and', 'without', 'from', 'at', 'behind', 'over'),
  *('under', 'tilted', 'done', 'not'),
}
_ACTORS = {'person', 'man', 'woman', 'people', 'index', 'face', 'arrow', 'globe'}
_IRREGULAR = {
  **{'man': 'men', 'woman': 'women', 'person': 'people', 'child': 'children'},
  **{'snowman': 'snowmen', 'mouse': 'mice', 'goose': 'geese', 'ox': 'oxen'},
  **{'foot': 'feet', 'tooth': 'teeth', 'leaf': 'leaves', 'wolf': 'wolves'},
  **{'knife': 'knives', 'elf': 'elves', 'loaf': 'loaves', 'fish': 'fish'},
  **{'blowfish': 'blowfish', 'jellyfish': 'jellyfish', 'deer': 'deer'},
  **{'bison': 'bison', 'shrimp': 'shrimp', 'squid': 'squid', 'potato': 'potatoes'},
  **{'tomato': 'tomatoes', 'mango': 'mangoes', 'volcano': 'volcanoes'},
  **{'fairy': 'fairies', 'pegasus': 'pegasi'},
}
# Words that end in s without being a plural.
_SINGULAR_S = {
  *('aries', 'arts', 'biceps', 'claus', 'customs', 'fleur-de-lis', 'pisces', 'gas'),
  *('abacus', 'compass', 'dress', 'glass', 'princess', 'minus', 'tennis'),
  *('rhinoceros', 'americas'),
}
_A_BEFORE_VOWEL = ('uni', 'euro', 'ewe', 'one', 'use')
_AN_BEFORE_CONSONANT = ('hour', 'x-ray', 'sos', 'atm', 'honest', 'heir', 'ng ', 'fm')


@dataclasses.dataclass(frozen=True)
class Meaning:
  """Meaning of one caption of one image.

  `names[k]` stands on `colors[k]`: the background, or its tile. A count repeats its
  name and colour. `relation` is where the first object lies as seen from the second.
  """

  kind: str  # single, count, pair or binding
  names: tuple[str, ...]
  colors: tuple[str, ...]
  relation: str | None


def write(meaning: Meaning) -> str:
  """The caption that says this."""
  names, colors = meaning.names, meaning.colors
  grounds = [f'on {article(color)} {color}' for color in colors]
  if meaning.kind == 'count':
    return f'{NUMBERS[len(names)]} {plural(names[0])} {grounds[0]} background'
  things = [f'{article(name)} {name}' for name in names]
  if meaning.kind == 'single':
    return f'{things[0]} {grounds[0]} background'
  relation = RELATIONS[meaning.relation]
  if meaning.kind == 'pair':
    return f'{things[0]} {relation} {things[1]} {grounds[0]} background'
  return f'{things[0]} {grounds[0]} tile {relation} {things[1]} {grounds[1]} tile'


def read(caption: str, names: tuple[str, ...]) -> Meaning | None:
  """Parses a caption in which objects are called `names`; None if it is no caption."""
  caption = ' '.join(caption.lower().split()).removeprefix(f'{THEN} ')
  if caption.endswith(' tile'):
    return _read_sides(caption, names, _read_tile, 'binding')
  body, color = _split_color(caption, 'background')
  if color is None:
    return None
  if thing := _things(names).get(body):
    return Meaning('single', (thing,), (color,), None)
  number, _, rest = body.partition(' ')
  if number in COUNTS and (thing := _plurals(names).get(rest)):
    count = COUNTS[number]
    return Meaning('count', (thing,) * count, (color,) * count, None)
  read_side = functools.partial(_read_thing, color)
  return _read_sides(body, names, read_side, 'pair')


def vocabulary(names: tuple[str, ...], colors: tuple[str, ...]) -> tuple[str, ...]:
  """Every word that captions of these objects and colours can hold, sorted."""
  phrases = [*RELATIONS.values(), *NUMBERS.values(), THEN, *colors]
  phrases += ['on background tile a an']
  for name in names:
    phrases += [article(name), name, plural(name)]
  return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


@functools.cache
def article(name: str) -> str:
  """'a', 'an', or 'some' before a name that is a plural already (grapes)."""
  if _is_plural(name):
    return 'some'
  if name.startswith(_A_BEFORE_VOWEL):
    return 'a'
  vowel = name.startswith(tuple('aeiou')) or name.startswith(_AN_BEFORE_CONSONANT)
  return 'an' if vowel else 'a'


@functools.cache
def plural(name: str) -> str:
  """Several of them: 'red apples', 'foxes', 'ears of corn'."""
  if _is_plural(name):
    return name
  words = name.split()
  head = _head(words)
  words[head] = _plural_word(words[head])
  return ' '.join(words)


def countable(name: str) -> bool:
  """True if 'two ...' of an object can be said and told apart from one of it."""
  return not _is_plural(name)


def _head(words: list[str]) -> int:
  """Index of the noun that takes the plural."""
  for index in range(1, len(words)):
    participle = words[index].endswith('ing') and words[index - 1] in _ACTORS
    if participle or words[index] in _PREPOSITIONS or words[index][0] == '(':
      return index - 1
  return len(words) - 1


def _is_plural(name: str) -> bool:
  words = name.split()
  head = words[_head(words)]
  return head in ('people', 'men', 'women') or (
    head.endswith('s')
    and not head.endswith(('ss', 'us'))
    and head not in _SINGULAR_S
    and len(head) > 2
  )


def _plural_word(word: str) -> str:
  if word in _IRREGULAR:
    return _IRREGULAR[word]
  if word.endswith('y') and word[-2:-1] not in tuple('aeiou'):
    return f'{word[:-1]}ies'
  return f'{word}es' if word.endswith(('s', 'x', 'z', 'ch', 'sh')) else f'{word}s'


@functools.lru_cache(maxsize=8)
def _things(names: tuple[str, ...]) -> dict[str, str]:
  return {f'{article(name)} {name}': name for name in names}


@functools.lru_cache(maxsize=8)
def _plurals(names: tuple[str, ...]) -> dict[str, str]:
  return {plural(name): name for name in names if countable(name)}


def _split_color(phrase: str, noun: str) -> tuple[str, str | None]:
  """Splits 'X on a COLOR noun' into X and COLOR."""
  words = phrase.split()
  if len(words) < 5 or words[-1] != noun or words[-4] != 'on':
    return phrase, None
  if words[-3] != article(words[-2]):
    return phrase, None
  return ' '.join(words[:-4]), words[-2]


def _read_thing(color, phrase, names):
  return _things(names).get(phrase), color


def _read_tile(phrase, names):
  body, color = _split_color(phrase, 'tile')
  return _things(names).get(body), color


def _read_sides(phrase, names, read_side, kind) -> Meaning | None:
  """Reads 'X relation Y', where `read_side` reads X and Y into (name, color)."""
  for relation, words in RELATIONS.items():
    left, found, right = phrase.partition(f' {words} ')
    if found:
      sides = read_side(left, names), read_side(right, names)
      things, colors = zip(*sides, strict=True)
      if None not in things + colors:
        return Meaning(kind, things, colors, relation)
  return None
