"""Questions about emoji scenes and edits of them, by a trained model, scored exactly.

An answer is right if it is the dataset's, word for word. An edit is right if the scorer
of `scenes.py` finds all of the picture that was asked for; `kept` is what was not asked
for: things stand where they stood, on the ground they stood on.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import jax
import numpy as np

from transfusion_jax.data.emoji import edits as emoji_edits
from transfusion_jax.data.emoji import questions as emoji_questions
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.emoji import tasks as emoji_tasks
from transfusion_jax.evaluation import evaluator, report
from transfusion_jax.evaluation.emoji import scorer
from transfusion_jax.generation import writer as writer_lib
from transfusion_jax.generation.samplers import denoise

NEAR = 1 / 8
"""A thing is where it stood if it is no further off than this share of the picture."""

_SEARCHED = 100
"""Scenes that are looked at for each one that answers a question or allows an edit."""


@dataclasses.dataclass(frozen=True)
class SceneTasksConfig:
  """Questions about emoji scenes and edits of them, scored exactly.

  Attributes:
    kind: tells this evaluator from the others.
    questions: of every kind; 0: none.
    edits: of every kind; 0: none.
    shown: tiles of every gallery.
    seed: of the noise that pictures are sampled from.
  """

  kind: Literal['scene_tasks']
  questions: int
  edits: int
  shown: int
  seed: int

  def __post_init__(self):
    if min(self.questions, self.edits, self.shown) < 0:
      raise ValueError(
        'expected questions, edits and shown of at least 0, found '
        f'{self.questions}, {self.edits} and {self.shown}; raise them'
      )


GOALS = (
  *(
    report.Goal(f'question_{kind}', f'questions of {kind} answered', 0.9, None)
    for kind in emoji_questions.KINDS
  ),
  report.Goal('edit', 'edits: all of the picture right', None, None),
  report.Goal('edit_kept', 'edits: what was not to change has stayed', None, None),
)


class SceneTasks:
  """Yields `question_KIND`, `edit_KIND`, `edit` and `edit_kept`, and two galleries.

  All are shares of what is right on the test split. Questions for counts have one to
  four of a thing equally often, where there are scenes of one and of several; the
  others are about scenes as they come.
  """

  def __init__(
    self,
    config: SceneTasksConfig,
    data: emoji_scenes.EmojiScenesConfig,
    sampling: denoise.ImageSampling,
    *,
    rows: int,
  ):
    """Sets it up.

    Args:
      config: how much is asked.
      data: the scenes that the model was trained on.
      sampling: how pictures are sampled.
      rows: questions or pictures that go through the model at a time.
    """
    self._config, self._data = config, data
    self._sampling, self._rows = sampling, rows

  def check(self) -> None:
    """Draws the scene that is asked about first."""
    _ = emoji_scenes.EmojiScenes(self._data, 'test')[0]

  def __call__(
    self, writer: writer_lib.Writer
  ) -> Iterator[tuple[str, evaluator.Value]]:
    if self._config.questions:
      yield from self._answers(writer)
    if self._config.edits:
      yield from self._edits(writer)

  def _answers(self, writer) -> Iterator[tuple[str, evaluator.Value]]:
    tiles = []
    for kind in emoji_questions.KINDS:
      asked = questions(self._data, kind, self._config.questions)
      said = self._in_rows(asked, lambda part, _: _answers(writer, part))
      right = [correct(*pair) for pair in zip(asked, said, strict=True)]
      if right:
        yield f'question_{kind}', float(np.mean(right))
      tiles.append(list(map(_answered, asked, said, right)))
    note = 'Questions about pictures of the test split, the first of every kind.'
    yield 'questions', report.Gallery('Answers', note, self._some(tiles))

  def _edits(self, writer) -> Iterator[tuple[str, evaluator.Value]]:
    tiles, rows = [], collections.defaultdict(list)
    for kind in emoji_edits.KINDS:
      asked = edits(self._data, kind, self._config.edits)
      drawn = self._in_rows(asked, lambda part, keys: self._draw(writer, part, keys))
      for one, picture in zip(asked, drawn, strict=True):
        found = scorer.read(self._data, one.after, picture)
        right = scorer.judge(self._data, one.after, found).whole
        rows[f'edit_{kind}'].append(right)
        rows['edit'].append(right)
        rows['edit_kept'].append(kept(self._data, one, found))
      tiles.append(list(map(_changed, asked, drawn, rows[f'edit_{kind}'])))
    for name, each in rows.items():
      if each:
        yield name, float(np.mean(each))
    note = (
      'Pictures of the test split, and what the model makes of them; the first ones.'
    )
    yield 'edits', report.Gallery('Edits', note, self._some(tiles))

  def _draw(self, writer, asked, keys) -> list[np.ndarray]:
    pictures = [one.before.pixels for one in asked]
    texts = [emoji_edits.write(one.edit) for one in asked]
    return list(writer.edit(pictures, texts, keys, self._sampling))

  def _in_rows(self, asked: Sequence, make: Callable) -> list:
    """Results of `make`, called on some items at a time."""
    rows, made = self._rows, []
    keys = jax.random.split(jax.random.key(self._config.seed), max(len(asked), 1))
    for start in range(0, len(asked), rows):
      part = slice(start, start + rows)
      made += make(asked[part], keys[part])
    return made

  def _some(self, tiles: list[list[report.Tile]]) -> tuple[report.Tile, ...]:
    """The first tiles of every kind."""
    each = -(-self._config.shown // len(tiles))
    return tuple(tile for some in tiles for tile in some[:each])[: self._config.shown]


def questions(
  data: emoji_scenes.EmojiScenesConfig, kind: str, count: int
) -> list[emoji_questions.Asked]:
  """The first questions of a kind on the test split; fewer where few scenes answer."""
  if kind == 'count' and data.single and data.count:
    data = dataclasses.replace(
      data, single=1.0, count=3.0, pair=0.0, binding=0.0, story=0.0
    )
  source = emoji_scenes.EmojiScenes(data, 'test')
  tasks = emoji_tasks.Questions(data, 'test', source)
  return _first(lambda index: tasks.ask(index, [kind]), count)


def edits(
  data: emoji_scenes.EmojiScenesConfig, kind: str, count: int
) -> list[emoji_edits.Edited]:
  """The first edits of a kind on the test split; fewer where few scenes allow it."""
  source = emoji_scenes.EmojiScenes(data, 'test')
  tasks = emoji_tasks.Edits(data, 'test', source)
  return _first(lambda index: tasks.edit(index, [kind]), count)


def correct(asked: emoji_questions.Asked, said: str) -> bool:
  """True if this is the answer, capitals and spaces aside."""
  return said.lower().split() == asked.answers[0].split()


def kept(
  data: emoji_scenes.EmojiScenesConfig,
  edited: emoji_edits.Edited,
  found: scorer.Detected,
) -> bool:
  """True if all that was not to change is as before: objects in their places, the
  ground.

  Of several of a kind any may go or come, as long as the others stay.
  """
  before, after = edited.before, edited.after
  common = sum(
    any(_same(data, old, new) for old in before.objects) for new in after.objects
  )
  stayed = [
    thing
    for thing in found.objects
    if any(_same(data, old, thing) for old in before.objects)
  ]
  if edited.edit.kind == 'ground':
    return len(stayed) >= common
  colors = {thing.name: thing.color for thing in after.objects}
  ground = before.background in (None, found.grounds[0])
  stayed = [thing for thing in stayed if colors.get(thing.name) == thing.color]
  return ground and len(stayed) >= common


def _same(data, old, thing) -> bool:
  """True if an object stands where another of its name stood."""
  off = max(
    abs(getattr(old, axis) + old.size / 2 - getattr(thing, axis) - thing.size / 2)
    for axis in 'xy'
  )
  return old.name == thing.name and off <= NEAR * data.size


def _first(make: Callable, count: int) -> list:
  """The first `count` things that are made, of so many indices as it is worth."""
  made = (make(index) for index in range(_SEARCHED * count))
  return list(itertools.islice((one for one in made if one is not None), count))


def _answers(writer, asked) -> list[str]:
  texts = [emoji_questions.write(one.questions[0]) for one in asked]
  return writer.answer([one.picture.pixels for one in asked], texts)


def _answered(asked, said: str, right: bool) -> report.Tile:
  line = f'{emoji_questions.write(asked.questions[0])} {said}'
  return report.Tile(asked.picture.pixels, line, right)


def _changed(asked, picture: np.ndarray, right: bool) -> report.Tile:
  """Both pictures side by side."""
  before = asked.before.pixels
  gap = np.full((len(before), len(before) // 8, 3), 255, np.uint8)
  both = np.concatenate([before, gap, picture], axis=1)
  return report.Tile(both, emoji_edits.write(asked.edit), right)
