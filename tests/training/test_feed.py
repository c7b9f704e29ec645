"""From the data iterator to the devices."""

import jax
import numpy as np
import pytest

from transfusion_jax.core import axes, command
from transfusion_jax.training import feed, mesh


class Counting:
  """Rows that say which they are, of batches that say so too."""

  def __init__(self, rows):
    self.rows, self.given = np.array(rows, np.int32), 0

  def __next__(self):
    self.given += 1
    count = len(self.rows)
    tokens = self.rows[:, None] + 100 * self.given
    return {'tokens': tokens, 'images': np.zeros((count, 2, 2, 3), np.uint8)}

  def get_state(self):
    return {'given': self.given}

  def set_state(self, state):
    self.given = state['given']


def make(state=None, source=Counting):
  devices = mesh.make(mesh.MeshConfig(data=2, fsdp=2, sequence=1, tensor=2))
  return feed.Feed(
    source,
    devices,
    rows=8,
    state=state,
    prepare=lambda rows, digest: {**rows, 'prepared': rows['tokens'] * 2},
    count=lambda rows: rows['tokens'][0, 0],
    shares=lambda state: {'all': 1.0} if state['given'] else {},
    empty=lambda rows: not rows['tokens'].any(),
    unit='tokens',
  )


def test_rows_are_divided_over_data_and_fsdp_and_prepared_there():
  batch = next(make())
  np.testing.assert_array_equal(batch['tokens'][:, 0], np.arange(8) + 100)
  np.testing.assert_array_equal(batch['prepared'][:, 0], 2 * np.arange(8) + 200)
  for array in batch.values():
    assert array.sharding.spec[0] == axes.BATCH_SPEC[0]
    assert array.addressable_shards[0].data.shape[0] == 2
  assert isinstance(batch['images'], jax.Array)
  assert batch['images'].dtype == np.uint8


def test_what_was_given_is_told_once():
  batches = make()
  next(batches)
  assert batches.get_state() == {'given': 1}
  next(batches)
  assert batches.get_state() == {'given': 2}
  given = batches.given()
  assert given.sizes == [100, 200]
  assert len(set(given.digests)) == 2
  assert given.waited > 0
  assert batches.given() == feed.Given(
    digests=[], sizes=[], waited=0.0, shares={'all': 1.0}
  )


def test_digests_are_those_of_the_batch_wherever_it_was_begun():
  whole = make()
  for _ in range(3):
    next(whole)
  later = make({'given': 2})
  next(later)
  assert whole.given().digests[2:] == later.given().digests


def test_data_that_breaks_a_promise_ends_the_command_in_one_line():
  class Broken(Counting):
    def __next__(self):
      raise ValueError('expected sound documents, found none')

  batches = make(source=Broken)
  with pytest.raises(command.Exit, match='error: expected sound documents') as error:
    next(batches)
  assert error.value.code == 2


def test_the_end_of_the_data_is_the_end():
  class Short(Counting):
    def __next__(self):
      rows = super().__next__()
      return rows if self.given < 3 else {key: 0 * rows[key] for key in rows}

  batches = make(source=Short)
  assert [next(batches)['tokens'][0, 0] for _ in range(2)] == [100, 200]
  with pytest.raises(StopIteration):
    next(batches)
  assert batches.given().sizes == [100, 200]


def test_a_state_that_cannot_be_gone_on_from_is_one_line():
  class Gone(Counting):
    def set_state(self, state):
      raise ValueError('expected the document that waited, found none')

  with pytest.raises(command.Exit, match='error: expected the document that waited'):
    make({'given': 1}, source=Gone)


def test_it_goes_on_from_a_state():
  batch = next(make({'given': 4}))
  assert batch['tokens'][0, 0] == 500


def test_rows_of_a_process():
  everything = (slice(None),)
  assert feed.rows_within([everything, everything], 8) == list(range(8))
  apart = [(slice(6, 8),), (slice(0, 2),), (slice(6, 8),), (slice(0, 2),)]
  assert feed.rows_within(apart, 8) == [0, 1, 6, 7]
