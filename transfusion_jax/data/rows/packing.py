"""Packs sequences into rows of fixed length, and resumes from a few integers.

A window of sequences waits, in the order in which they were drawn. A row takes the one
that has waited longest, and with it that combination of the others which fills the row
best by a subset-sum table, earlier ones preferred. Nothing is dropped, and none waits
for more rows than the window holds sequences. Since sources allow random access, the
state is where the mixture stands and where the waiting came from, and nothing else.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from transfusion_jax.data.rows import layout

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rows:
  """The shape of a batch.

  Attributes:
    count: rows of a batch, b.
    length: positions of a row, t.
    image_slots: pictures that a row can hold, i.
    image_shape: height, width and channels of every picture or its latents' moments.
    image_type: of their elements.
    pad: id of the filler token.
  """

  count: int
  length: int
  image_slots: int
  image_shape: tuple[int, int, int]
  image_type: type
  pad: int


@runtime_checkable
class Source(Protocol):
  """Protocol of the items that are packed, such as `mixture.Mixture`."""

  def draw(self, step: int) -> list[tuple[Sequence[Any], layout.Sequence]]:
    """The next ones for a step, each with what makes it again; none at the end."""

  def fetch(self, ticket: Sequence[Any]) -> layout.Sequence | None:
    """One that was drawn before; None where it is gone."""

  def get_state(self) -> dict[str, Any]: ...

  def set_state(self, state: dict[str, Any]) -> None: ...


class Packer(Iterator[list[layout.Sequence]]):
  """Sequences for one row after another; for empty rows when there are no more.

  The state is `{'row': int, 'source': {...}, 'waiting': [ticket, ...]}`, for JSON.
  """

  def __init__(self, source: Source, rows: Rows, *, window: int, each: int):
    """Sets up the packer; nothing is drawn yet.

    Args:
      source: of sequences that fit into a row.
      rows: their shape.
      window: sequences that wait.
      each: rows that it gives to every batch, by which it knows the step.
    """
    self._source, self._rows = source, rows
    self._window, self._each = window, each
    self._row = 0
    self._waiting: list[tuple[Sequence[Any], layout.Sequence]] = []

  def __next__(self) -> list[layout.Sequence]:
    """The sequences of the next row."""
    room, slots, row = self._rows.length, self._rows.image_slots, []
    self._refill()
    chosen = [0] if self._waiting else []  # the one that has waited longest
    while chosen:
      taken = [self._waiting[index][1] for index in chosen]
      self._waiting = [
        one for index, one in enumerate(self._waiting) if index not in chosen
      ]
      row += taken
      room -= sum(map(len, taken))
      slots -= sum(len(sequence.images) for sequence in taken)
      self._refill()
      chosen = self._choose(room, slots)
    self._row += 1
    return row

  def get_state(self) -> dict[str, Any]:
    """State of the packer."""
    return {
      'row': self._row,
      'source': self._source.get_state(),
      'waiting': [list(ticket) for ticket, _ in self._waiting],
    }

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes on from where `get_state` was called."""
    self._row = int(state['row'])
    self._source.set_state(state['source'])
    again = [(ticket, self._source.fetch(ticket)) for ticket in state['waiting']]
    self._waiting = [one for one in again if one[1] is not None]

  def _choose(self, room: int, slots: int) -> list[int]:
    waiting = [sequence for _, sequence in self._waiting]
    if not waiting:
      return []
    fits = len(waiting[0]) <= room and len(waiting[0].images) <= slots
    if fits and sum(map(len, waiting)) < 2 * room:
      return [0]  # too much room for the window to choose well: go on in order
    return best_combination(waiting, room, slots)

  def _refill(self) -> None:
    while len(self._waiting) < self._window:
      drawn = self._source.draw(self._row // self._each)
      if not drawn:
        return
      self._waiting += drawn


def best_combination(
  sequences: Sequence[layout.Sequence], room: int, slots: int
) -> list[int]:
  """Indices of the sequences that fill most of `room` positions within `slots` images.

  `first[s, i]` is the earliest sequence that completes s positions and i images.
  """
  slots = min(slots, sum(len(sequence.images) for sequence in sequences))
  first = np.full((room + 1, slots + 1), -1, np.int32)
  reached = np.zeros(first.shape, bool)
  reached[0, 0] = True
  for index, sequence in enumerate(sequences):
    length, images = len(sequence), len(sequence.images)
    if length <= room and images <= slots:
      there = np.s_[length:, images:]
      new = reached[: room + 1 - length, : slots + 1 - images] & ~reached[there]
      first[there][new] = index
      reached[there] |= new
  total = int(np.flatnonzero(reached.any(1))[-1])
  images = int(np.flatnonzero(reached[total])[0])
  chosen = []
  while total:
    index = int(first[total, images])
    chosen.append(index)
    total, images = total - len(sequences[index]), images - len(sequences[index].images)
  return chosen[::-1]


def stack(bins: Sequence[Sequence[layout.Sequence]], rows: Rows) -> Batch:
  """Rows of sequences that fit, as one batch.

  Keys, with b rows, t positions, i image slots: tokens, targets, position, start, end,
  slot int32 [b, t]; weight float32 [b, t]; images of the rows' type [b, i, h, w, c];
  noise_cap, image_weight float32 [b, i]. `start`, `end` and `slot` count within the
  row; padding has start == end == 0.
  """
  b, t, i = len(bins), rows.length, rows.image_slots
  integers = ('targets', 'position', 'start', 'end')
  batch = {
    'tokens': np.full((b, t), rows.pad, np.int32),
    **{key: np.zeros((b, t), np.int32) for key in integers},
    'weight': np.zeros((b, t), np.float32),
    'slot': np.full((b, t), -1, np.int32),
    'images': np.zeros((b, i, *rows.image_shape), rows.image_type),
    'noise_cap': np.zeros((b, i), np.float32),
    'image_weight': np.zeros((b, i), np.float32),
  }
  batch['targets'][:] = rows.pad
  for row, sequences in enumerate(bins):
    begin, image = 0, 0
    for sequence in sequences:
      here = np.s_[row, begin : begin + len(sequence)]
      for key in ('tokens', 'targets', 'weight', 'position'):
        batch[key][here] = getattr(sequence, key)
      batch['start'][here] = begin
      batch['end'][here] = sequence.end + begin
      batch['slot'][here] = np.where(
        sequence.slot < 0, -1, sequence.slot + image * sequence.patches
      )
      there = np.s_[row, image : image + len(sequence.images)]
      for key in ('images', 'noise_cap', 'image_weight'):
        if len(sequence.images):
          batch[key][there] = getattr(sequence, key)
      begin, image = begin + len(sequence), image + len(sequence.images)
  return batch


def fill(batch: Batch) -> float:
  """Share of positions that hold a document."""
  return float(np.mean(batch['end'] > batch['start']))
