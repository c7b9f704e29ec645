"""Held-out documents of a run's own data, for evaluators that name no source.

They are drawn at random, the same whenever they are asked for, from the split 'test' of
every source in turn. What cannot be read is left out; what an evaluator cannot use is
passed over.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from transfusion_jax.core import log
from transfusion_jax.data import documents, pipeline
from transfusion_jax.data.rows import layout
from transfusion_jax.evaluation import evaluator

PATIENCE = {'images': 100, 'texts': 32}
"""Documents of a source that do not suit, one after the other, before it is given up:
fewer for texts, since images are decoded to find that there is no text alone."""

DRAWN = 1024
"""Documents of a source that are looked at at most."""

ROWS = 8
"""Rows at a time at most: the documents are few."""

ATTEMPTS = 4
"""Times that a captioned record is made a document, until its caption is there."""


def check_count(documents: int) -> None:
  """Raises ValueError if a config asks for no document."""
  if documents < 1:
    raise ValueError(
      f'expected documents of at least 1, found {documents}; raise it, or remove the '
      'evaluator'
    )


class OwnDocuments:
  """The held-out documents of a run, and whether they fit into its rows."""

  def __init__(self, data: pipeline.DataConfig, plan: layout.Layout, *, seed: int):
    """Opens the sources.

    Args:
      data: of the run; images are cut to their middle.
      plan: of its documents.
      seed: of the choice.

    Raises:
      ValueError: a source cannot be opened.
    """
    self._data, self._plan, self._seed = data, plan, seed
    self._opened = {
      name: opened
      for name, opened in pipeline.collections(_centred(data), 'test').items()
      if len(opened)
    }
    self.left_out = 0

  @property
  def moments(self) -> bool:
    """True if documents hold moments of latents in place of pixels."""
    return self._data.moments

  def fits(self, document: documents.Document) -> bool:
    """True if the model can read a document whole."""
    try:
      whole = self._plan.document(document)
    except ValueError:  # words that the tokenizer does not know
      return False
    slots = self._data.image_slots
    return len(whole) <= self._data.row_length and len(whole.images) <= slots

  def choose(
    self, count: int, suits: Callable[[documents.Document], bool], what: str
  ) -> list[documents.Document]:
    """The first documents that suit, or as many as there are.

    Args:
      count: documents at most.
      suits: whether a document is one of them.
      what: they hold, a key of `PATIENCE`.

    Raises:
      evaluator.Unsuited: there is none; the message says how to have some.
    """
    self.left_out = 0
    found = list(itertools.islice(self._suiting(suits, PATIENCE[what]), count))
    if not found:
      raise evaluator.Unsuited(self._none(what))
    return found

  def _suiting(self, suits, patience: int) -> Iterator[documents.Document]:
    """A document of every source in turn, until all are given up."""
    missed = dict.fromkeys(self._opened, 0)
    for name, index in self._turns():
      if missed[name] >= patience:
        continue
      document = self._document(name, index)
      if document is not None and suits(document):
        missed[name] = 0
        yield document
      else:
        missed[name] += 1

  def _turns(self) -> Iterator[tuple[str, int]]:
    """Sources and numbers of documents, drawn at random."""
    drawn = {}
    for name, opened in self._opened.items():
      random = np.random.default_rng(self._seed)
      numbers = random.choice(len(opened), min(len(opened), DRAWN), replace=False)
      drawn[name] = numbers.tolist()
    for turn in itertools.zip_longest(*drawn.values()):
      yield from (
        (name, number)
        for name, number in zip(drawn, turn, strict=True)
        if number is not None
      )

  def _document(self, name: str, index: int) -> documents.Document | None:
    """A document, with its caption where the record has one; None if it is broken."""
    opened, source = self._opened[name], self._data.sources[name]
    attempts = ATTEMPTS if source.form.kind == 'captioned' and not source.scenes else 1
    document = None
    for attempt in range(attempts):
      random = np.random.default_rng((index, attempt))
      try:
        document = opened.document(index, random)
      except ValueError as error:
        self.left_out += 1
        log.once(f'left out of what is held out: {error}')
        return None
      if evaluator.has_text(document):
        break
    return document

  def _none(self, what: str) -> str:
    held = sum(len(opened) for opened in self._opened.values())
    if held:
      return (
        f'expected held-out {what} that fit into a row, found none in '
        f'{held:,} held-out documents; hold more out with '
        f'--config.data.sources.{next(iter(self._opened))}.heldout'
      )
    names = ', '.join(self._data.sources)
    return (
      f'expected held-out {what}, found nothing held out of {names}; set '
      f'--config.data.sources.{next(iter(self._data.sources))}.heldout=0.01'
    )


def _centred(data: pipeline.DataConfig) -> pipeline.DataConfig:
  """The same data, images cut to their middle, nothing left to chance."""
  images = dataclasses.replace(data.images, crop='center')
  return dataclasses.replace(data, images=images)


def joined_text(document: documents.Document) -> str:
  """All text of a document, images left out."""
  said = [each.text.strip() for each in document if isinstance(each, documents.Text)]
  return ' '.join(each for each in said if each)


def to_draw(
  document: documents.Document,
) -> tuple[documents.Document, documents.Image] | None:
  """Segments before the first image behind a text, and that image.

  A text and an image alone can stand in either order.
  """
  return _behind(document, documents.Image, documents.Text)


def to_say(
  document: documents.Document,
) -> tuple[documents.Document, documents.Text] | None:
  """Segments before the first text behind an image, and that text."""
  return _behind(document, documents.Text, documents.Image)


def _behind(document, wanted: type, before: type):
  if [*map(type, document)] == [wanted, before]:
    document = tuple(sorted(document, key=lambda each: isinstance(each, wanted)))
  for place, each in enumerate(document):
    context = document[:place]
    behind = any(isinstance(other, before) for other in context)
    if isinstance(each, wanted) and each.learn and behind:
      return context, each
  return None
