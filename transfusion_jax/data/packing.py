"""Packs sequences into rows of fixed length, and resumes from a few integers.

A window of documents waits, in the order of the source. A row takes the one that has
waited longest, and with it that combination of the others which fills the row best by a
subset-sum table, earlier documents preferred. Nothing is dropped, and none waits for
more rows than the window holds documents. Since sources allow random access, the state
is the next index and the indices in the window, and nothing else.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from transfusion_jax.data import layout

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rows:
  """The shape of a batch.

  Attributes:
    count: rows of a batch, b.
    length: positions of a row, t.
    image_slots: pictures that a row can hold, i.
    image_size: height and width of every picture in pixels.
    pad: id of the filler token.
  """

  count: int
  length: int
  image_slots: int
  image_size: int
  pad: int


class Packer(Iterator[list[layout.Sequence]]):
  """Documents for one row after another, without end.

  `fetch(index)` is the document at an index, always the same one; `window` is the
  number of documents that wait. The state is `{'next': int, 'carried': [int, ...]}`,
  ready for JSON: the next index to fetch, and those that wait.
  """

  def __init__(
    self, fetch: Callable[[int], layout.Sequence], rows: Rows, *, window: int
  ):
    self._fetch, self._rows, self._window = fetch, rows, window
    self._next = 0
    self._waiting: list[tuple[int, layout.Sequence]] = []

  def __next__(self) -> list[layout.Sequence]:
    """The documents of the next row.

    Raises:
      ValueError: a document does not even fit into an empty row.
    """
    room, slots, row = self._rows.length, self._rows.image_slots, []
    chosen = [0]  # the one that has waited longest
    while chosen:
      self._refill()
      taken = [self._waiting[index][1] for index in chosen]
      self._waiting = [
        one for index, one in enumerate(self._waiting) if index not in chosen
      ]
      row += taken
      room -= sum(map(len, taken))
      slots -= sum(len(sequence.images) for sequence in taken)
      self._refill()
      waiting = [sequence for _, sequence in self._waiting]
      fits = len(waiting[0]) <= room and len(waiting[0].images) <= slots
      if fits and sum(map(len, waiting)) < 2 * room:
        chosen = [0]  # too much room for the window to choose well: go on in order
      else:
        chosen = best_combination(waiting, room, slots)
    return row

  def get_state(self) -> dict[str, Any]:
    """Where it stands."""
    return {'next': self._next, 'carried': [index for index, _ in self._waiting]}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes on from where `get_state` was called."""
    self._next = int(state['next'])
    self._waiting = [(int(index), self._get(int(index))) for index in state['carried']]

  def _get(self, index: int) -> layout.Sequence:
    sequence = self._fetch(index)
    check(sequence, self._rows)
    return sequence

  def _refill(self) -> None:
    while len(self._waiting) < self._window:
      self._waiting.append((self._next, self._get(self._next)))
      self._next += 1


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


def check(sequence: layout.Sequence, rows: Rows) -> None:
  """Raises a ValueError if a document is too large for an empty row."""
  if len(sequence) > rows.length:
    raise ValueError(
      f'expected documents of at most {rows.length} positions (the row length), found '
      f'one of {len(sequence)}; lengthen the rows or shorten the documents'
    )
  if len(sequence.images) > rows.image_slots:
    raise ValueError(
      f'expected documents of at most {rows.image_slots} images (the image slots of a '
      f'row), found one of {len(sequence.images)}; raise the image slots'
    )


def stack(bins: Sequence[Sequence[layout.Sequence]], rows: Rows) -> Batch:
  """Rows of sequences that fit, as one batch.

  Keys, with b rows, t positions, i image slots: tokens, targets, position, start, end,
  slot int32 [b, t]; weight float32 [b, t]; images uint8 [b, i, h, w, 3]; noise_cap,
  image_weight float32 [b, i]. `start`, `end` and `slot` count within the row; padding
  has start == end == 0.
  """
  b, t, i, side = len(bins), rows.length, rows.image_slots, rows.image_size
  integers = ('targets', 'position', 'start', 'end')
  batch = {
    'tokens': np.full((b, t), rows.pad, np.int32),
    **{key: np.zeros((b, t), np.int32) for key in integers},
    'weight': np.zeros((b, t), np.float32),
    'slot': np.full((b, t), -1, np.int32),
    'images': np.zeros((b, i, side, side, 3), np.uint8),
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
