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
are drawn. Files are found beside the file of orders. A run without pictures writes on
documents of texts, and a prompt is the beginning of one.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from transfusion_jax.core import command, json_text, paths
from transfusion_jax.data import documents, pipeline
from transfusion_jax.data.images import image_files
from transfusion_jax.data.rows import layout
from transfusion_jax.diffusion import times
from transfusion_jax.generation import tasks
from transfusion_jax.runs import build, config

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
  frozenset({'document'}): 'interleave',
  frozenset({'document', 'pictures'}): 'interleave',
}
_TYPES = {
  **dict.fromkeys(('prompt', 'image', 'question', 'instruction', 'mask'), str),
  **{'seed': int, 'count': int, 'pictures': int, 'strength': float, 'document': list},
}

COUNTS = (1, 100_000)
"""Least and most pictures or documents that one order asks for."""

PICTURES = (0, 1000)
"""Least and most pictures of a document."""

_RANGES = {'count': COUNTS, 'pictures': PICTURES, 'seed': command.SEEDS}

CHARACTERS = 1_000_000
"""Characters of the longest text; no context holds so many tokens."""


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits of the requests to a model.

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

  @property
  def draws(self) -> bool:
    """True if the model draws images; otherwise it writes text alone."""
    return self.patches > 0

  def tasks(
    self,
    order: Order,
    folder: pathlib.Path,
    *,
    seed: int,
    pictures: int | None,
    steps: int,
  ) -> Iterator[tasks.Task]:
    """The tasks of an order that the model can do.

    Args:
      order: what is asked for.
      folder: where its files are.
      seed: where the order has none; counts up with `count`.
      pictures: most pictures of a document, where the order does not say; None: 2 of
        a model that draws.
      steps: of denoising.

    Raises:
      ValueError: the order means nothing, a picture cannot be read, the tokenizer does
        not know a word, or the model has no room, no such levels or no pictures.
    """
    if pictures is None:
      pictures = 2 * self.draws
    check(order)
    if not self.draws:
      order = _text_alone(order, pictures)
    given = sum(isinstance(part, dict) for part in order.get('document', ()))
    if given * self.patches > self.context:  # before all of them are read
      raise ValueError(
        f'expected a document that leaves room in {self.context} positions, found '
        f'{given} pictures of {self.patches} each; leave some out'
      )
    made = parse(order, folder, self.size, seed=seed, pictures=pictures)
    for number, task in enumerate(made):
      if not number:  # the others differ in their seed alone
        check_room(task, self.layout, patches=self.patches, context=self.context)
        if self.draws:
          _check_steps(task, steps, self.levels)
      yield task


def limits(run: config.TransfusionRun) -> Limits:
  """Limits of the model of a run."""
  pictures = run.data.image_slots > 0
  return Limits(
    size=pipeline.pixels(run.data)[:2] if pictures else (0, 0),
    patches=build.patch_count(run) if pictures else 0,
    layout=build.text_layout(run),
    context=run.data.row_length,
    levels=run.objective.path.steps,
  )


def read(path: pathlib.Path) -> Iterator[tuple[str, Order]]:
  """The orders of a JSON Lines file, each with the place to name in an error.

  Raises:
    ValueError: it cannot be read, a line is not an object, or there is no line.
  """
  try:
    lines = list(json_text.lines(path.read_bytes()))
  except OSError as error:
    raise ValueError(
      f'expected a file of orders, found {path}: {error.strerror}; check the path'
    ) from error
  if not lines:
    raise ValueError(f'expected orders in {path}, found an empty file; add a line')
  for number, line in lines:
    where = f'{path}, line {number}'
    try:
      order = json_text.parse(line)
    except ValueError as error:
      raise ValueError(f'{where}: {error}') from error
    if not isinstance(order, dict):
      raise ValueError(
        f'{where}: expected an object such as {{"prompt": "a panda"}}, found '
        f'{shown(order)}; write one'
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
  check(order)
  kind = _FIELDS[frozenset(order) - {'seed', 'count'}]
  asked = ('prompt', 'question', 'instruction')
  words = next((order[name] for name in asked if name in order), '')
  task = tasks.Task(
    kind=kind,
    words=words,
    picture=_picture(order, 'image', folder, size),
    mask=_mask(order, folder, size),
    strength=float(order.get('strength', 1.0)),
    document=_document(order.get('document', ()), folder, size),
    pictures=order.get('pictures', pictures),
    seed=order.get('seed', seed),
  )
  for number in range(order.get('count', 1)):
    yield dataclasses.replace(task, seed=task.seed + number)


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


def check(order: Order) -> None:
  """Raises ValueError if fields mean nothing together, or hold what they cannot."""
  unknown = sorted(set(order) - set(_TYPES))
  named = frozenset(order) - {'seed', 'count'}
  if unknown or named not in _FIELDS:
    shapes = '; '.join(', '.join(sorted(fields)) for fields in _FIELDS)
    found = shown(', '.join(sorted(order))) if order else 'none'
    raise ValueError(
      f'expected fields that make a task ({shapes}; with seed and count), found '
      f'{found}; see --help'
    )
  for name, value in order.items():
    kind = _TYPES[name]
    if type(value) not in ((int, float) if kind is float else (kind,)):
      raise ValueError(
        f'expected {name} to be {kind.__name__}, found {shown(value)}; mend it'
      )
    if kind is str:
      _check_text(name, value)
  for part in order.get('document', ()):
    _check_part(part)
  for name, (low, high) in _RANGES.items():
    value = order.get(name, low)
    if not low <= value <= high:
      raise ValueError(
        f'expected {name} from {low} to {high}, found {shown(value)}; change it'
      )
  _check_meaning(order)


def shown(value: Any) -> str:
  """A value that others have written, as a message shows it: on one line, not long."""
  text = repr(value)
  return text if len(text) <= 80 else f'{text[:77]}...'


def _check_steps(task: tasks.Task, steps: int, levels: int) -> None:
  times.strided(steps, steps=levels)
  if steps > round(task.strength * levels):
    raise ValueError(
      f'expected a strength of at least {steps / levels:g} for {steps} steps, found '
      f'{task.strength:g}; raise the strength, or lower the steps'
    )


def _check_meaning(order: Order) -> None:
  if not order.get('question', order.get('instruction', 'none')).split():
    raise ValueError(
      'expected words in the question or instruction, found none; add some'
    )
  if not 0 < order.get('strength', 1.0) <= 1:
    raise ValueError(
      'expected a strength above 0 and up to 1, found '
      f'{shown(order["strength"])}; change it'
    )
  last = order.get('seed', 0) + order.get('count', 1) - 1
  if last > command.SEEDS[1]:
    raise ValueError(
      f'expected seeds up to {command.SEEDS[1]}, found {last} at last; lower the seed'
    )


def _check_text(name: str, text: str) -> None:
  if len(text) > CHARACTERS:
    raise ValueError(
      f'expected {name} of at most {CHARACTERS} characters, found {len(text)}; cut it'
    )
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise ValueError(
      f'expected {name} to be text in Unicode, found half a character at '
      f'{error.start}; write it again'
    ) from error


def _check_part(part: Any) -> None:
  if isinstance(part, str):
    _check_text('a text of the document', part)
  elif not (isinstance(part, dict) and list(part) == ['image']):
    raise ValueError(
      f'expected texts and {{"image": FILE}} in document, found {shown(part)}; mend it'
    )
  elif not isinstance(part['image'], str):
    raise ValueError(f'expected image to be str, found {shown(part["image"])}; mend it')


def _text_alone(order: Order, pictures: int) -> Order:
  """Request to a model without images: a prompt is how a document begins."""
  if 'prompt' in order and 'image' not in order:
    order = {**order, 'document': [order['prompt']]}
    del order['prompt']
  parts = order.get('document')
  most = order.get('pictures', pictures)
  if parts is None or any(isinstance(part, dict) for part in parts) or most:
    raise ValueError(
      'expected an order without pictures, since the run has learnt none, found '
      f'{", ".join(sorted(order))} and {most} pictures at most; name another run'
    )
  return order


def _picture(order: Order, name: str, folder, size) -> np.ndarray | None:
  if name not in order:
    return None
  return image_files.read_picture(_file(order[name], name, folder), size)


def _file(name: str, field: str, folder: pathlib.Path) -> str:
  """The path of an image file; `~` is a home, all else is found from the folder."""
  if not name or paths.is_url(name) or name.startswith('data:'):
    raise ValueError(
      f'expected a picture file on this machine for {field}, found '
      f'{shown(name) if name else "no name"}; download it and name the file'
    )
  return str(paths.local(name if name[0] == '~' else folder / name, field))


def _mask(order: Order, folder, size) -> np.ndarray | None:
  found = _picture(order, 'mask', folder, size)
  return None if found is None else found.mean(-1) > 127


def _document(parts, folder, size) -> documents.Document:
  return tuple(
    documents.Text(part, learn=False)
    if isinstance(part, str)
    else documents.Image(
      _picture(part, 'image', folder, size), learn=False, noise_cap=0.0
    )
    for part in parts
  )
