"""Tasks from files, flags and pages: what is asked for, checked before it begins.

An order is a dict, a line of a JSON Lines file:

  {"prompt": "a panda"}                                  a picture
  {"image": "a.png"}                                     a caption of it
  {"image": "a.png", "question": "how many pandas?"}     an answer
  {"image": "a.png", "instruction": "add a guitar"}      an edited picture
  {"image": "a.png", "mask": "m.png", "prompt": "..."}   a picture drawn anew where the
                                                         mask is white
  {"image": "a.png", "strength": 0.6, "prompt": "..."}   a variation
  {"document": ["a story", {"image": "a.png"}]}          its continuation

with, in any of them, `seed` and `count`, and in the last one `pictures`, the most that
are drawn. Files are found beside the file of orders.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from transfusion_jax import build, config
from transfusion_jax.data import documents, images, layout, pipeline
from transfusion_jax.diffusion import times
from transfusion_jax.generation import tasks

Order = Mapping[str, Any]

_FIELDS: dict[frozenset[str], tasks.Kind] = {
  frozenset({'prompt'}): 'draw',
  frozenset({'image'}): 'caption',
  frozenset({'image', 'question'}): 'answer',
  frozenset({'image', 'instruction'}): 'edit',
  frozenset({'image', 'mask'}): 'inpaint',
  frozenset({'image', 'mask', 'prompt'}): 'inpaint',
  frozenset({'image', 'strength'}): 'vary',
  frozenset({'image', 'strength', 'prompt'}): 'vary',
  frozenset({'document'}): 'tell',
  frozenset({'document', 'pictures'}): 'tell',
}
_TYPES = {
  **dict.fromkeys(('prompt', 'image', 'question', 'instruction', 'mask'), str),
  **{'seed': int, 'count': int, 'pictures': int, 'strength': float, 'document': list},
}


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a model can take.

  Attributes:
    size: height and width of its pictures, which others are fitted to; 0 where it was
      trained without.
    patches: positions that a picture takes.
    layout: from documents to sequences.
    context: positions of a row.
    levels: of noise; the most denoising steps.
  """

  size: tuple[int, int]
  patches: int
  layout: layout.Layout
  context: int
  levels: int

  def tasks(
    self, order: Order, folder: pathlib.Path, *, seed: int, pictures: int, steps: int
  ) -> Iterator[tasks.Task]:
    """The tasks of an order that the model can do.

    Args:
      order: what is asked for.
      folder: where its files are.
      seed: where the order has none; counts up with `count`.
      pictures: most pictures of a document, where the order does not say.
      steps: of denoising.

    Raises:
      ValueError: the order means nothing, a picture cannot be read, the tokenizer does
        not know a word, or there is no room, or not so many levels.
    """
    for task in parse(order, folder, self.size, seed=seed, pictures=pictures):
      check_room(task, self.layout, patches=self.patches, context=self.context)
      times.strided(steps, steps=self.levels, begin=task.strength)
      yield task


def limits(run: config.TransfusionRun) -> Limits:
  """What the model of a run can take."""
  pictures = run.data.image_slots > 0
  return Limits(
    size=pipeline.pixels(run.data)[:2] if pictures else (0, 0),
    patches=build.patch_count(run) if pictures else 0,
    layout=build.text_layout(run),
    context=run.data.row_length,
    levels=run.objective.path.steps,
  )


def read(path: str | pathlib.Path) -> Iterator[tuple[str, Order]]:
  """The orders of a JSON Lines file, each with the place to name in an error.

  Raises:
    ValueError: a line is not an object, or there is no line.
  """
  lines = pathlib.Path(path).read_text(encoding='utf-8').splitlines()
  if not any(line.strip() for line in lines):
    raise ValueError(f'expected orders in {path}, found an empty file; add a line')
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    where = f'{path}, line {number}'
    try:
      order = json.loads(line)
    except json.JSONDecodeError as error:
      raise ValueError(
        f'{where}: expected JSON, found {error}; mend the line'
      ) from None
    if not isinstance(order, dict):
      raise ValueError(
        f'{where}: expected an object such as {{"prompt": "a panda"}}, found {line!r}'
      )
    yield where, order


def parse(
  order: Order, folder: pathlib.Path, size: tuple[int, int], *, seed: int, pictures: int
) -> Iterator[tasks.Task]:
  """The tasks that an order asks for, one per `count`.

  Args:
    order: as above.
    folder: where its files are.
    size: height and width of the model's pictures, which others are fitted to.
    seed: where the order has none; counts up with `count`.
    pictures: most pictures of a document, where the order does not say.

  Raises:
    ValueError: fields that mean nothing together or are ill-typed, pictures that cannot
      be read.
  """
  _check(order)
  kind = _FIELDS[frozenset(order) - {'seed', 'count'}]
  words = next(
    (order[n] for n in ('prompt', 'question', 'instruction') if n in order), ''
  )
  if kind in ('answer', 'edit') and not words.split():
    raise ValueError(
      'expected words in the question or instruction, found none; add some'
    )
  if not 0 < order.get('strength', 1.0) <= 1:
    raise ValueError(
      f'expected a strength above 0 and up to 1, found {order["strength"]}; change it'
    )
  first = order.get('seed', seed)
  for number in range(order.get('count', 1)):
    yield tasks.Task(
      kind=kind,
      words=words,
      picture=_picture(order, 'image', folder, size),
      mask=_mask(order, folder, size),
      strength=float(order.get('strength', 1.0)),
      document=_document(order.get('document', ()), folder, size),
      pictures=order.get('pictures', pictures),
      seed=first + number,
    )


def check_room(
  task: tasks.Task, made: layout.Layout, *, patches: int, context: int
) -> None:
  """Raises ValueError if the tokenizer does not know a word or there is no room."""
  needed = len(tasks.prompt(task, made))
  needed += 1 if task.kind in tasks.WRITES else patches
  if needed > context:
    raise ValueError(
      f'expected a prompt that leaves room in {context} positions, found one that '
      f'needs {needed}; shorten the prompt'
    )


def _check(order: Order) -> None:
  unknown = sorted(set(order) - set(_TYPES))
  named = frozenset(order) - {'seed', 'count'}
  if unknown or named not in _FIELDS:
    shapes = '; '.join(', '.join(sorted(fields)) for fields in _FIELDS)
    raise ValueError(
      f'expected fields that make a task ({shapes}; with seed and count), found '
      f'{", ".join(sorted(order)) or "none"}; see --help'
    )
  for name, value in order.items():
    kind = _TYPES[name]
    good = type(value) in ((int, float) if kind is float else (kind,))
    if not good:
      raise ValueError(
        f'expected {name} to be {kind.__name__}, found {value!r}; mend it'
      )
  if order.get('count', 1) < 1 or order.get('pictures', 0) < 0:
    raise ValueError(
      'expected count of at least 1 and pictures of at least 0; raise it'
    )


def _picture(order: Order, name: str, folder, size) -> np.ndarray | None:
  if name not in order:
    return None
  return images.read_picture(str(folder / order[name]), size)


def _mask(order: Order, folder, size) -> np.ndarray | None:
  found = _picture(order, 'mask', folder, size)
  return None if found is None else found.mean(-1) > 127


def _document(parts, folder, size) -> documents.Document:
  made = []
  for part in parts:
    if isinstance(part, str):
      made.append(documents.Text(part, learn=False))
    elif isinstance(part, dict) and list(part) == ['image']:
      pixels = images.read_picture(str(folder / part['image']), size)
      made.append(documents.Image(pixels, learn=False, noise_cap=0.0))
    else:
      raise ValueError(
        f'expected a document of texts and {{"image": FILE}}, found {part!r}; mend it'
      )
  return tuple(made)
