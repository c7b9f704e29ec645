"""Perplexity: nats per token, and per byte, which compares models with other
tokenizers.

Every document begins with BOS. One that is longer than a row goes through the model in
windows as in training (`layout.cut`): each token is predicted exactly once, the first
of a window from the last position of the window before. Only the text counts, not EOS,
as in other harnesses.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Literal

import jax.numpy as jnp
import numpy as np

from transfusion_jax.core import sharding
from transfusion_jax.data import corpus, documents, held_out, pipeline
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.images import image_files
from transfusion_jax.data.rows import layout, packing
from transfusion_jax.evaluation import evaluator, own_documents
from transfusion_jax.evaluation import rows as rows_lib
from transfusion_jax.generation import writer as writer_lib
from transfusion_jax.models import batch as batch_lib


@dataclasses.dataclass(frozen=True)
class PerplexityConfig:
  """Text of one domain.

  Attributes:
    kind: tells this evaluator from the others.
    documents: as many of the first; 0: all of them.
    source: where they are. Files that are made for measuring are read whole; with
      `heldout` it is what training leaves out.
  """

  kind: Literal['perplexity']
  documents: int
  source: corpus.SourceConfig

  def __post_init__(self):
    if self.source.form.kind != 'text' or 'emoji_scenes' in self.source.kind:
      raise ValueError(
        "expected a source of form 'text' for perplexity, found "
        f'{self.source.form.kind!r} of {self.source.kind!r}; set source.form.kind=text'
      )
    if self.documents < 0:
      raise ValueError(
        f'expected documents >= 0, found {self.documents}; use 0 for all of them'
      )


@dataclasses.dataclass(frozen=True)
class HeldoutPerplexityConfig:
  """Documents of text alone that the run's own data holds out.

  Attributes:
    kind: tells this evaluator from the others.
    documents: at most.
    seed: of the choice.
  """

  kind: Literal['heldout_perplexity']
  documents: int
  seed: int

  def __post_init__(self):
    own_documents.check_count(self.documents)


class Perplexity:
  """The evaluator, on a source of its own."""

  def __init__(
    self,
    config: PerplexityConfig,
    *,
    scenes: emoji_scenes.EmojiScenesConfig,
    pictures: image_files.ImagesConfig,
    rows: int,
  ):
    """Opens the source; ValueError as `held_out.HeldOut`."""
    self._documents = held_out.HeldOut(
      config.source, scenes=scenes, pictures=pictures, count=config.documents
    )
    self._rows = rows

  def check(self) -> None:
    """Makes documents until one has text."""
    evaluator.demand(self._documents, evaluator.has_text, 'text')

  def __call__(self, writer: writer_lib.Writer) -> Iterator[tuple[str, float]]:
    """Nats and bits, and what they are means over."""
    yield from _measured(writer, self._documents, self._rows)
    yield 'left_out', float(self._documents.left_out)


class HeldoutPerplexity:
  """The evaluator, on texts that the run's own data holds out."""

  def __init__(
    self,
    config: HeldoutPerplexityConfig,
    *,
    data: pipeline.DataConfig,
    plan: layout.Layout,
    rows: int,
  ):
    """Chooses the documents.

    Args:
      config: how many.
      data: of the run.
      plan: of its documents.
      rows: that go through the model at a time.

    Raises:
      evaluator.Unsuited: no text alone is held out.
    """

    def suits(document: documents.Document) -> bool:
      alone = not any(isinstance(each, documents.Image) for each in document)
      return alone and evaluator.has_text(document) and _readable(plan, document)

    own = own_documents.OwnDocuments(data, plan, seed=config.seed)
    self._documents = own.choose(config.documents, suits, 'texts')
    self._rows = min(rows, own_documents.ROWS)

  def check(self) -> None:
    """Nothing is left to try: the documents were read when they were chosen."""

  def __call__(self, writer: writer_lib.Writer) -> Iterator[tuple[str, float]]:
    """See `Perplexity`."""
    yield from _measured(writer, self._documents, self._rows)


def _readable(plan: layout.Layout, document: documents.Document) -> bool:
  """True if the tokenizer knows the words of a document."""
  try:
    return bool(plan.document(document).weight[:-2].any())
  except ValueError:
    return False


def _measured(
  writer: writer_lib.Writer,
  found: Iterable[documents.Document],
  rows: int,
) -> Iterator[tuple[str, float]]:
  """Nats and bits, and what they are means over."""
  mesh = sharding.mesh_of(writer.model)
  shape = rows_lib.shape(writer, rows=rows)
  counts = {'documents': 0, 'bytes': 0, 'tokens': 0}
  nats = 0.0
  for bins in rows_lib.batches(_windows(writer, found, counts), shape):
    arrays = packing.stack(bins, shape)
    placed = rows_lib.placed(writer.model, arrays)
    each = rows_lib.compiled(_nats, mesh)(writer.model, placed)
    nats += float(np.asarray(each).sum(dtype=np.float64))
  if not counts['tokens'] or not counts['bytes']:
    raise ValueError(
      f'expected text that is learnt, found none in {counts["documents"]} documents; '
      'name other fields in `form`'
    )
  per_token, per_byte = nats / counts['tokens'], nats / counts['bytes']
  yield 'nats_per_token', per_token
  yield 'perplexity', float(np.exp(per_token))
  yield 'nats_per_byte', per_byte
  yield 'bits_per_byte', per_byte / float(np.log(2))
  yield from ((name, float(count)) for name, count in counts.items())


def _windows(
  writer: writer_lib.Writer,
  found: Iterable[documents.Document],
  counts: dict[str, int],
) -> Iterator[layout.Sequence]:
  """Parts of documents that fit into rows; counts what they hold."""
  for document in found:
    whole = without_end(writer.layout.document(document))
    counts['documents'] += 1
    counts['bytes'] += length_in_bytes(document)
    counts['tokens'] += int(whole.weight.sum())
    yield from layout.cut(whole, writer.context, 0)


def without_end(sequence: layout.Sequence) -> layout.Sequence:
  """The same, but that its EOS does not count."""
  weight = sequence.weight.copy()
  weight[-2] = 0
  return dataclasses.replace(sequence, weight=weight)


def length_in_bytes(document: documents.Document) -> int:
  """Bytes of the text that is learnt, in UTF-8."""
  texts = (each for each in document if isinstance(each, documents.Text))
  return sum(len(each.text.encode()) for each in texts if each.learn)


def _nats(model, arrays):
  """Negative log-probabilities of the tokens that count; 0 elsewhere: [b, t]."""
  batch = batch_lib.Batch(**arrays)
  found = model(batch, batch.images.astype(jnp.float32), batch.noise_cap)
  nats = model.nats(found.hidden, batch.targets)
  return jnp.where(batch.weight > 0, nats, 0.0)
