"""Protocol of an evaluator: from a model to named numbers and images.

An evaluator is made of a frozen config, checks its files and settings when it is made,
tries its data when it is asked to (`check`), and works when it is called. Names are
plain; the name that the config gives to the evaluator goes before them, as in
`wikitext/nats_per_byte`.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

from transfusion_jax.data import documents
from transfusion_jax.evaluation import report
from transfusion_jax.generation import writer as writer_lib

Value = float | report.Gallery

TRIED = 300
"""Documents that `demand` looks at."""


class Unsuited(ValueError):
  """There is nothing in a run for an evaluator that was not asked for by name.

  Such evaluators are defaults: they are left out, and training starts. The message is
  empty where that is as a person would expect.
  """


@runtime_checkable
class Evaluator(Protocol):
  """Measures a model."""

  def check(self) -> None:
    """Tries the data, in little time and without a model.

    Raises:
      ValueError: there is nothing in it to measure a model on.
    """

  def __call__(self, writer: writer_lib.Writer) -> Iterator[tuple[str, Value]]:
    """Scores and galleries, each under a name of its own."""


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Result of one evaluator.

  Attributes:
    name: of the evaluator.
    values: scores by plain name.
    galleries: by plain name.
    seconds: that it took.
    error: what ended it early, after what is in `values` and `galleries`.
  """

  name: str
  values: dict[str, float]
  galleries: dict[str, report.Gallery]
  seconds: float
  error: Exception | None


def run(
  evaluators: Mapping[str, Evaluator], writer: writer_lib.Writer
) -> Iterator[Outcome]:
  """Runs evaluators on a model; yields the result of each as soon as it is through.

  Whatever one of them raises is part of its outcome, and the next one's turn comes.
  """
  for name, evaluate in evaluators.items():
    began = time.monotonic()
    values: dict[str, float] = {}
    galleries: dict[str, report.Gallery] = {}
    raised: Exception | None = None
    try:
      for key, value in evaluate(writer):
        known = galleries if isinstance(value, report.Gallery) else values
        assert key not in known, (name, key)
        known[key] = value if known is galleries else float(value)
    except Exception as error:  # noqa: BLE001, data and packages of others are at work
      raised = error
    yield Outcome(name, values, galleries, time.monotonic() - began, raised)


def prefixed(name: str, values: Mapping[str, float]) -> dict[str, float]:
  """Scores under their names in tables: `wikitext/nats_per_byte`."""
  return {f'{name}/{key}': value for key, value in values.items()}


def demand(
  found: Iterable[documents.Document],
  suits: Callable[[documents.Document], bool],
  what: str,
) -> None:
  """Looks through some documents for one that suits.

  Args:
    found: sound documents.
    suits: whether a document is one to measure on.
    what: it has then, for the message: 'text'.

  Raises:
    ValueError: none of the first `TRIED` suits.
  """
  tried = 0
  for tried, document in enumerate(itertools.islice(found, TRIED), 1):  # noqa: B007
    if suits(document):
      return
  raise ValueError(
    f'expected documents with {what} to measure on, found none among the first '
    f'{tried}; name another source or other fields in its form'
  )


def has_text(document: documents.Document) -> bool:
  """True if a document holds text that is learnt."""
  return any(isinstance(each, documents.Text) and each.learn for each in document)


def has_images(document: documents.Document) -> bool:
  """True if a document holds an image that is learnt."""
  return any(isinstance(each, documents.Image) and each.learn for each in document)
