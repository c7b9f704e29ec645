"""What an evaluator is: from a model to named numbers and pictures.

An evaluator is made of a frozen config, checks its files and settings when it is made,
and works when it is called. Names are plain; the name that the config gives to the
evaluator goes before them, as in `wikitext/nats_per_byte`.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

from transfusion_jax.evaluation import report
from transfusion_jax.generation import writer as writer_lib

Value = float | report.Gallery


@runtime_checkable
class Evaluator(Protocol):
  """Measures a model."""

  def __call__(self, writer: writer_lib.Writer) -> Iterator[tuple[str, Value]]:
    """Scores and galleries, each under a name of its own."""


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What one evaluator has found.

  Attributes:
    name: of the evaluator.
    values: scores by plain name.
    galleries: by plain name.
    seconds: that it took.
  """

  name: str
  values: dict[str, float]
  galleries: dict[str, report.Gallery]
  seconds: float


def run(
  evaluators: Mapping[str, Evaluator], writer: writer_lib.Writer
) -> Iterator[Outcome]:
  """What evaluators find of a model, each as soon as it is through."""
  for name, evaluate in evaluators.items():
    began = time.monotonic()
    values: dict[str, float] = {}
    galleries: dict[str, report.Gallery] = {}
    for key, value in evaluate(writer):
      known = galleries if isinstance(value, report.Gallery) else values
      assert key not in known, (name, key)
      known[key] = value if known is galleries else float(value)
    yield Outcome(name, values, galleries, time.monotonic() - began)


def prefixed(name: str, values: Mapping[str, float]) -> dict[str, float]:
  """Scores under their names in tables: `wikitext/nats_per_byte`."""
  return {f'{name}/{key}': value for key, value in values.items()}
