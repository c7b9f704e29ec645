"""From the data iterator to the devices."""

import jax
import numpy as np

from transfusion_jax.core import axes
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


def make(state=None):
  devices = mesh.make(mesh.MeshConfig(data=2, fsdp=2, sequence=1, tensor=2))
  return feed.Feed(
    Counting,
    devices,
    rows=8,
    state=state,
    prepare=lambda rows: {**rows, 'prepared': rows['tokens'] * 2},
    count=lambda rows: int(rows['tokens'][0, 0]),
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


def test_state_and_count_are_those_of_the_batch_given_last():
  batches = make()
  assert batches.size == 0
  next(batches)
  assert (batches.size, batches.get_state()) == (100, {'given': 1})
  next(batches)
  assert (batches.size, batches.get_state()) == (200, {'given': 2})


def test_it_goes_on_from_a_state():
  batch = next(make({'given': 4}))
  assert batch['tokens'][0, 0] == 500


def test_rows_of_a_process():
  everything = (slice(None),)
  assert feed.rows_within([everything, everything], 8) == list(range(8))
  apart = [(slice(6, 8),), (slice(0, 2),), (slice(6, 8),), (slice(0, 2),)]
  assert feed.rows_within(apart, 8) == [0, 1, 6, 7]
