"""Packing: nothing is lost or mixed, rows are full, and resuming is exact."""

import json

import numpy as np
import pytest

from transfusion_jax.data import documents, mixture
from transfusion_jax.data.rows import layout, packing, shards
from transfusion_jax.data.text import tokenizers

PATCHES = 4
TOKENIZER = tokenizers.Words(tuple('abcdefgh'), reserved=0, multiple=8)
LAYOUT = layout.Layout(TOKENIZER, patches=PATCHES)


def shape(count=3, length=48, image_slots=4):
  return packing.Rows(
    count, length, image_slots, (8, 8, 3), np.uint8, TOKENIZER.special.pad
  )


ROWS = shape()


def fetch(index: int) -> layout.Sequence:
  """A document that depends on the index only; its first words spell the index."""
  rng = np.random.default_rng(index)
  words = [int(digit) for digit in np.base_repr(index, 8).zfill(4)]
  words += list(rng.integers(8, size=rng.integers(8)))
  segments = [documents.Text(TOKENIZER.decode(words), learn=True)]
  for _ in range(rng.integers(3)):
    pixels = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
    segments.append(
      documents.Image(pixels, learn=bool(rng.random() < 0.7), noise_cap=0.5)
    )
    segments.append(documents.Text('a b', learn=bool(rng.random() < 0.7)))
  return LAYOUT.document(tuple(segments))


def packer(rows=ROWS, window=8, count=1, limit=None):
  """Batches of all rows, from so many shards."""
  make = lambda index: [fetch(index)]  # noqa: E731
  schedule = mixture.Schedule((1.0,), (0,))
  members = {'all': mixture.Member(make, limit, schedule, size=10**6)}

  def of_shard(shard):
    mixed = mixture.Mixture(
      members, shard=shard, shards=count, broken=0.0, pool=None, ahead=0
    )
    return packing.Packer(mixed, rows, window=window, each=rows.count // count)

  def stack(bins):
    return packing.stack(bins, rows)

  return shards.Shards(
    of_shard, stack, count=rows.count, shards=count, rows=range(rows.count)
  )


def unpack(batch):
  """Rows cut into (index, sequence) again."""
  found = []
  for row in range(len(batch['tokens'])):
    used = batch['end'][row] > batch['start'][row]
    for start in np.unique(batch['start'][row][used]):
      here = used & (batch['start'][row] == start)
      slots = batch['slot'][row][here]
      images = np.unique(slots[slots >= 0] // PATCHES)
      tokens = batch['tokens'][row][here]
      index = int(''.join(str(token) for token in tokens[1:5]), 8)
      sequence = layout.Sequence(
        tokens=tokens,
        targets=batch['targets'][row][here],
        weight=batch['weight'][row][here],
        position=batch['position'][row][here],
        end=batch['end'][row][here] - start,
        slot=np.where(
          slots < 0, -1, slots - images[:1].sum().astype(np.int32) * PATCHES
        ),
        images=batch['images'][row][images],
        noise_cap=batch['noise_cap'][row][images],
        image_weight=batch['image_weight'][row][images],
        patches=PATCHES,
      )
      found.append((index, sequence))
  return found


FIELDS = ('tokens', 'targets', 'weight', 'position', 'end', 'slot', 'noise_cap')
FIELDS = (*FIELDS, 'image_weight')


def test_packing_is_the_identity_on_every_document():
  source = packer()
  for _ in range(20):
    for index, sequence in unpack(next(source)):
      expected = fetch(index)
      for field in FIELDS:
        np.testing.assert_array_equal(
          getattr(sequence, field), getattr(expected, field)
        )
      if len(expected.images):
        np.testing.assert_array_equal(sequence.images, expected.images)


@pytest.mark.parametrize('count', [1, 3])
def test_every_document_comes_exactly_once_and_soon(count):
  source = packer(count=count)
  seen = [index for _ in range(40) for index, _ in unpack(next(source))]
  waiting, fetched = [], []
  for shard, state in source.get_state()['shards'].items():
    assert len(state['waiting']) <= 8
    drawn = state['source']['sources']['all']['next']
    waiting += [int(shard) + count * index for _, index, _ in state['waiting']]
    fetched += [int(shard) + count * index for index in range(drawn)]
  assert sorted(seen + waiting) == sorted(fetched)
  late = [position - index for position, index in enumerate(seen)]
  assert max(late) < 8 * 5 * count  # at most the window times the documents of a row


def test_empty_places_are_marked():
  batch = next(packer(shape(2, 200, 9), window=2))
  padding = batch['end'] <= batch['start']
  assert padding.any()
  for key, value in [('tokens', TOKENIZER.special.pad), ('slot', -1), ('weight', 0)]:
    assert (batch[key][padding] == value).all()
  for key in ('start', 'end', 'position'):
    assert (batch[key][padding] == 0).all()
  used = [len(np.unique(row[row >= 0] // PATCHES)) for row in batch['slot']]
  for row, count in enumerate(used):
    for key in ('images', 'image_weight', 'noise_cap'):
      assert not batch[key][row, count:].any()


def test_shapes_and_types():
  batch = next(packer())
  shapes = {key: (value.shape, value.dtype.name) for key, value in batch.items()}
  integers = ('tokens', 'targets', 'position', 'start', 'end', 'slot')
  assert shapes == {
    **dict.fromkeys(integers, ((3, 48), 'int32')),
    'weight': ((3, 48), 'float32'),
    'images': ((3, 4, 8, 8, 3), 'uint8'),
    'noise_cap': ((3, 4), 'float32'),
    'image_weight': ((3, 4), 'float32'),
  }


def test_a_wider_window_fills_rows_better():
  fills = []
  for window in (1, 4, 16):
    source = packer(window=window)
    fills.append(np.mean([packing.fill(next(source)) for _ in range(30)]))
  assert fills == sorted(fills)
  assert fills[-1] > 0.97


@pytest.mark.parametrize('room', [0, 5, 17, 40])
def test_best_combination_is_the_best(room):
  sequences = [fetch(index) for index in range(9)]
  for slots in (0, 1, 3):
    totals = []
    for mask in range(2 ** len(sequences)):
      chosen = [s for k, s in enumerate(sequences) if mask >> k & 1]
      if sum(len(s.images) for s in chosen) <= slots:
        totals.append(sum(map(len, chosen)))
    chosen = packing.best_combination(sequences, room, slots)
    assert chosen == sorted(set(chosen))
    assert sum(len(sequences[k].images) for k in chosen) <= slots
    assert sum(len(sequences[k]) for k in chosen) == max(x for x in totals if x <= room)


def test_resuming_twice_is_exact():
  whole = packer()
  expected = [next(whole) for _ in range(9)]
  source, state = packer(), None
  for start in (0, 3, 6):
    source = packer()
    if state is not None:
      source.set_state(json.loads(state))
    for offset in range(3):
      batch = next(source)
      for key, value in expected[start + offset].items():
        np.testing.assert_array_equal(batch[key], value)
    state = json.dumps(source.get_state())
  assert json.loads(state) == whole.get_state()


def test_at_the_end_come_the_last_documents_and_then_empty_rows():
  source = packer(limit=30)
  batches = [next(source) for _ in range(12)]
  seen = sorted(index for batch in batches for index, _ in unpack(batch))
  assert seen == list(range(30))
  assert packing.fill(batches[-1]) == 0.0
