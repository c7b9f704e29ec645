"""Tasks of any kinds, in any order: those that can be share batches.

draw      a prompt to a picture             caption  a picture to a text
answer    a picture and a question          edit     a picture and an instruction
inpaint   a picture, a mask and a prompt    vary     a picture like the one given
interleave  a document of text and pictures, continued
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import jax
import numpy as np

from transfusion_jax.data import documents
from transfusion_jax.data.rows import layout
from transfusion_jax.generation import logits, requests, writer
from transfusion_jax.generation.samplers import denoise

Kind = Literal['draw', 'caption', 'answer', 'edit', 'inpaint', 'vary', 'interleave']

WRITES = ('caption', 'answer', 'interleave')
"""Kinds that give text."""


@dataclasses.dataclass(frozen=True)
class Task:
  """One thing to be made.

  Attributes:
    kind: of task.
    words: the prompt, question or instruction; may be empty but for `answer`, `edit`.
    picture: what is described or changed; None for `draw` and `interleave`.
    mask: of `inpaint`, True where the picture is drawn anew.
    strength: of `vary`, above 0 and up to 1.
    document: of `interleave`, how it begins.
    pictures: of `interleave`, most pictures that are drawn.
    seed: of all that is drawn at random.
  """

  kind: Kind
  words: str
  picture: np.ndarray | None
  mask: np.ndarray | None
  strength: float
  document: documents.Document
  pictures: int
  seed: int


def prompt(task: Task, made: layout.Layout) -> layout.Sequence:
  """Document that the model reads.

  Raises:
    ValueError: the tokenizer does not know a word.
  """
  match task.kind:
    case 'interleave':
      return made.prompt(task.document, open_image=False)
    case 'caption':
      return made.caption_prompt(task.picture)
    case 'answer':
      return made.answer_prompt(task.picture, task.words)
    case 'edit':
      return made.edit_prompt(task.picture, task.words)
    case 'draw' | 'inpaint' | 'vary':
      return made.picture_prompt(task.words)


def perform(
  model: writer.Writer,
  tasks: Sequence[Task],
  sampling: denoise.ImageSampling,
  text: logits.TextSampling,
  *,
  rows: int,
  stop: Sequence[str],
) -> Iterator[tuple[int, list[requests.Piece]]]:
  """Does all tasks and gives each with its number, batch by batch.

  Args:
    model: the model.
    tasks: of any kinds.
    sampling: how pictures are drawn.
    text: how text is written.
    rows: most tasks at a time.
    stop: strings before which text ends.
  """
  groups: dict[tuple, list[int]] = {}
  for number, task in enumerate(tasks):
    changed = (task.kind, task.strength) if task.kind in ('inpaint', 'vary') else ()
    groups.setdefault(changed, []).append(number)
  for numbers in groups.values():
    for begin in range(0, len(numbers), rows):
      part = numbers[begin : begin + rows]
      done = _batch(model, [tasks[k] for k in part], sampling, text, stop)
      yield from zip(part, done, strict=True)


def _batch(model, tasks, sampling, text, stop) -> list[list[requests.Piece]]:
  """Tasks that share a batch: all change given pictures alike, or none does."""
  none = dataclasses.replace(text, limit=0)
  asked = [
    requests.Request(
      prompt(task, model.layout),
      jax.random.key(task.seed),
      text if task.kind in WRITES else none,
      pictures=_pictures(task),
    )
    for task in tasks
  ]
  given = _given(tasks)
  done = model.write(asked, sampling, stop=stop, given=given)
  if given is None or given.masks is None:
    return done
  return [
    [requests.Piece(None, requests.kept(task.picture, task.mask, pieces[0].picture))]
    for task, pieces in zip(tasks, done, strict=True)
  ]


def _pictures(task: Task) -> int:
  if task.kind == 'interleave':
    return task.pictures
  return int(task.kind not in WRITES)


def _given(tasks: Sequence[Task]) -> requests.Given | None:
  pictures = [task.picture for task in tasks]
  if tasks[0].kind == 'inpaint':
    return requests.Given(pictures, [task.mask for task in tasks], strength=1.0)
  if tasks[0].kind == 'vary':
    return requests.Given(pictures, None, tasks[0].strength)
  return None
