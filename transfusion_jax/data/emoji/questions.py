"""The grammar of questions about emoji scenes: asks, answers, and reads both exactly.

  count     how many pandas are there?                  three
  colour    what colour is the background?              blue
            what colour is behind the panda?            blue
  object    what is on the left?                        a panda
            what is to the left of the guitar?          a panda
  relation  where is the panda?                         to the left of the guitar

The colour behind an object is its tile's, or the background's. 'above' and 'below' are
asked for as 'what is above?'. Every question has one answer, whoever looks.
`read(write(question)) == question`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from transfusion_jax.data import documents
from transfusion_jax.data.emoji import captions, rendering

KINDS = ('count', 'colour', 'object', 'relation')
NUMBERS = {1: 'one', **captions.NUMBERS}

_WHOLE = {
  None: 'what colour is the background?',
  'left': 'what is on the left?',
  'right': 'what is on the right?',
  'above': 'what is above?',
  'below': 'what is below?',
}
"""Questions that name no object, by their relation."""


@dataclasses.dataclass(frozen=True)
class Question:
  """Question about one image.

  `name` is the object that the question names; None where it is about the background or
  the whole picture. `relation` is where the object that is asked for lies, as seen from
  that one, or in the picture.
  """

  kind: str  # one of KINDS
  name: str | None
  relation: str | None


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
  """A picture and questions about it."""

  picture: rendering.Picture
  questions: tuple[Question, ...]

  @property
  def answers(self) -> tuple[str, ...]:
    return tuple(answer(question, self.picture) for question in self.questions)

  def document(self) -> documents.Document:
    """The picture (clean) as context, then questions, also context, and answers.

    Spaces between them are for tokenizers to whom spaces matter.
    """
    said: list[documents.Text] = []
    for question, words in zip(self.questions, self.answers, strict=True):
      before = ' ' if said else ''
      said.append(documents.Text(f'{before}{write(question)}', learn=False))
      said.append(documents.Text(f' {words}', learn=True))
    return documents.Image(self.picture.pixels, learn=False, noise_cap=0.0), *said


def possible(picture: rendering.Picture, kind: str) -> list[Question]:
  """Every question of a kind that a picture answers, in a fixed order."""
  names = tuple(dict.fromkeys(thing.name for thing in picture.objects))
  if kind == 'count':
    countable = filter(captions.countable, names)
    return [Question(kind, name, None) for name in countable]
  if kind == 'colour':
    alone = names if len(names) == len(picture.objects) else ()
    found = [Question(kind, name, None) for name in alone]
    return found + [Question(kind, None, None)] * (picture.background is not None)
  if picture.relation is None:
    return []
  if kind == 'relation':
    return [Question(kind, name, None) for name in names]
  opposite = captions.OPPOSITES[picture.relation]
  return [
    Question(kind, name, relation)
    for other, relation in zip(names[::-1], (picture.relation, opposite), strict=True)
    for name in (other, None)
  ]


def ask(
  rng: np.random.Generator, picture: rendering.Picture, kinds: Sequence[str]
) -> Asked | None:
  """A question of each of these kinds that can be asked, in any order, if any can."""
  asked = []
  for kind in rng.permutation(kinds):
    if some := possible(picture, str(kind)):
      asked.append(some[int(rng.integers(len(some)))])
  return Asked(picture, tuple(asked)) if asked else None


def write(question: Question) -> str:
  """The question in words."""
  name = question.name
  if name is None:
    return _WHOLE[question.relation]
  if question.kind == 'count':
    return f'how many {captions.plural(name)} are there?'
  if question.kind == 'colour':
    return f'what colour is behind the {name}?'
  if question.kind == 'object':
    return f'what is {captions.RELATIONS[question.relation]} the {name}?'
  return f'where {"is" if captions.countable(name) else "are"} the {name}?'


def answer(question: Question, picture: rendering.Picture) -> str:
  """The answer that a picture gives to a question that is `possible`."""
  name, things = question.name, picture.objects
  if question.kind == 'count':
    return NUMBERS[sum(thing.name == name for thing in things)]
  if question.kind == 'colour':
    colors = [thing.color for thing in things if name in (None, thing.name)]
    return colors[0]
  if question.kind == 'object':
    other = things[0 if question.relation == picture.relation else 1].name
    return f'{captions.article(other)} {other}'
  first = things[0].name == name
  other = things[1 if first else 0].name
  relation = picture.relation if first else captions.OPPOSITES[picture.relation]
  return f'{captions.RELATIONS[relation]} the {other}'


def read(text: str, names: tuple[str, ...]) -> Question | None:
  """Parses a question in which objects are called `names`; None if it is none."""
  text = ' '.join(text.lower().split())
  return _questions(names).get(text)


def vocabulary(names: tuple[str, ...]) -> set[str]:
  """Every word that questions and answers hold and captions of the objects may not."""
  asked = ' '.join(_questions(names))
  return {*asked.replace('?', ' ? ').split(), NUMBERS[1]}


def longest(
  names: Sequence[str], colors: Sequence[str], measure: Callable[[str], int]
) -> int:
  """Most text, by `measure`, of a question of every kind, with the answers.

  Args:
    names: of at least two objects.
    colors: of the grounds.
    measure: of texts.
  """
  one, other = sorted(names, key=measure)[:-3:-1]
  object_, color = f'{captions.article(other)} {other}', max(colors, key=measure)
  place = f'{captions.RELATIONS["right"]} the {other}'
  countable = filter(captions.countable, names)
  counts = [measure(write(Question('count', name, None))) for name in countable]
  asked = [Question(kind, one, 'right') for kind in ('colour', 'object', 'relation')]
  found = max(counts, default=0) + sum(measure(f' {write(each)}') for each in asked)
  return found + sum(measure(f' {x}') for x in (NUMBERS[3], color, object_, place))


@functools.lru_cache(maxsize=8)
def _questions(names: tuple[str, ...]) -> dict[str, Question]:
  """Every question about pictures of objects so called, by its words."""
  whole = [Question('object' if each else 'colour', None, each) for each in _WHOLE]
  found = {write(each): each for each in whole}
  for name in names:
    asked = [Question(kind, name, None) for kind in ('colour', 'relation')]
    if captions.countable(name):
      asked.append(Question('count', name, None))
    asked += [Question('object', name, each) for each in captions.RELATIONS]
    found |= {write(each): each for each in asked}
  return found
