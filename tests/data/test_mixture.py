"""Mixing sources: exact shares, schedules, ends, broken documents, exact resumption."""

import collections
import json
import logging
from concurrent import futures

import numpy as np
import pytest

from transfusion_jax.core import log
from transfusion_jax.data import documents, mixture

ALWAYS = mixture.Schedule((1.0,), (0,))
LENGTHS = {'long': 100, 'short': 3, 'other': 10}


def member(
  name,
  *,
  weights=(1.0,),
  since=(0,),
  limit=None,
  broken=lambda index: False,
  unsuited=lambda index: False,
  size=10**6,
):
  """Document `index` is `LENGTHS[name]` times its own name and index."""

  def make(index):
    if broken(index):
      raise ValueError(f'{name} {index} is broken')
    if unsuited(index):
      raise documents.Unsuited('for others', f'{name} {index}')
    return [[(name, index)] * LENGTHS[name]]

  return mixture.Member(make, limit, mixture.Schedule(weights, since), size)


def shuffled(size, seed=0):
  """The record behind an index where every pass is in an order of its own."""

  def record(index):
    number, place = divmod(index, size)
    return int(np.random.default_rng((seed, number)).permutation(size)[place])

  return record


def mix(members, *, shard=0, shards=1, broken=0.0, pool=None):
  return mixture.Mixture(
    members, shard=shard, shards=shards, broken=broken, pool=pool, ahead=4
  )


def take(mixed, count, *, step=0):
  return [mixed.draw(step)[0][1][0] for _ in range(count)]


def filled(drawn):
  counts = collections.Counter()
  for name, _ in drawn:
    counts[name] += LENGTHS[name]
  return counts


def test_shares_are_of_positions_and_exact_to_a_document():
  mixed = mix({'long': member('long', weights=(3.0,)), 'short': member('short')})
  for count in (50, 500):
    counts = filled(take(mixed, count))
    assert abs(counts['long'] - 3 * counts['short']) <= 3 * LENGTHS['long']


def test_each_source_goes_in_order():
  drawn = take(mix({'long': member('long'), 'short': member('short')}), 300)
  for name in ('long', 'short'):
    indices = [index for each, index in drawn if each == name]
    assert indices == list(range(len(indices)))
    assert indices


def test_shards_share_out_the_documents():
  drawn = []
  for shard in range(4):
    mixed = mix({'short': member('short')}, shard=shard, shards=4)
    drawn += [index for _, index in take(mixed, 25)]
  assert sorted(drawn) == list(range(100))


def test_weights_change_at_their_step_without_catching_up():
  members = {
    'long': member('long', weights=(1.0, 1.0, 0.0), since=(0, 10, 20)),
    'other': member('other', weights=(0.0, 1.0), since=(0, 10)),
  }
  mixed = mix(members)
  assert {name for name, _ in take(mixed, 30, step=9)} == {'long'}
  counts = filled(take(mixed, 220, step=10))
  assert abs(counts['long'] - counts['other']) <= LENGTHS['long']
  assert {name for name, _ in take(mixed, 30, step=25)} == {'other'}


def test_other_weights_on_resuming_do_not_catch_up_either():
  before = mix({'long': member('long')})
  take(before, 500)
  after = mix({'long': member('long', weights=(2.0,)), 'other': member('other')})
  after.set_state(json.loads(json.dumps(before.get_state())))
  counts = filled(take(after, 240))
  assert abs(counts['long'] - 2 * counts['other']) <= 2 * LENGTHS['long']


@pytest.mark.parametrize('shards', [1, 3])
def test_a_source_ends_after_its_epochs_and_then_all_ends(shards):
  drawn = []
  for shard in range(shards):
    members = {'long': member('long', limit=7), 'short': member('short', limit=10)}
    mixed = mix(members, shard=shard, shards=shards)
    while parts := mixed.draw(0):
      drawn += [part[0] for _, part in parts]
  expected = [('long', k) for k in range(7)] + [('short', k) for k in range(10)]
  assert sorted(drawn) == expected


def test_broken_documents_are_left_out_named_and_counted(caplog, monkeypatch):
  monkeypatch.setattr(log.logger, 'propagate', True)
  mixed = mix({'short': member('short', broken=lambda k: k % 100 == 7)}, broken=0.011)
  with caplog.at_level(logging.INFO):
    indices = [index for _, index in take(mixed, 396)]
  assert indices == [k for k in range(400) if k % 100 != 7]
  assert mixed.get_state()['sources']['short']['broken'] == 4
  assert 'short: left out: short 107 is broken' in caplog.text


def test_too_many_broken_documents_end_the_run():
  mixed = mix({'short': member('short', broken=lambda k: k % 2 == 1)}, broken=0.1)
  with pytest.raises(ValueError, match=r'at most 10.00% broken .*data.sources.short'):
    take(mixed, 1000)


def test_an_endless_row_of_broken_documents_ends_as_well():
  mixed = mix({'short': member('short', broken=lambda k: True)}, broken=0.5)
  with pytest.raises(ValueError, match='21 of the first 21'):
    mixed.draw(0)


@pytest.mark.parametrize('workers', [0, 3])
def test_resuming_twice_is_exact_with_any_number_of_threads(workers):
  def begin(pool):
    members = {
      'long': member('long', limit=40),
      'short': member('short', weights=(2.0, 1.0), since=(0, 2)),
      'other': member('other', broken=lambda k: k % 5 == 0),
    }
    return mix(members, shard=1, shards=2, broken=0.5, pool=pool)

  whole = begin(None)
  expected = [(step, ticket) for step in range(4) for ticket in draws(whole, step, 30)]
  with futures.ThreadPoolExecutor(max(1, workers)) as pool:
    state, found = None, []
    for step in range(4):
      mixed = begin(pool if workers else None)
      if state is not None:
        mixed.set_state(json.loads(state))
      found += [(step, ticket) for ticket in draws(mixed, step, 30)]
      state = json.dumps(mixed.get_state())
  assert found == expected
  assert json.loads(state) == whole.get_state()


def draws(mixed, step, count):
  return [ticket for _ in range(count) for ticket, _ in mixed.draw(step)]


def test_a_failing_disk_is_no_broken_document():
  def make(index):
    raise OSError('the disk is gone')

  mixed = mix({'short': mixture.Member(make, None, ALWAYS, 10)}, broken=1.0)
  with pytest.raises(OSError, match='the disk is gone'):
    mixed.draw(0)


def test_what_was_drawn_can_be_fetched_again():
  mixed = mix({'long': member('long'), 'short': member('short')}, shard=1, shards=3)
  for _ in range(20):
    for ticket, part in mixed.draw(0):
      assert mixed.fetch(json.loads(json.dumps(ticket))) == part
  assert mixed.fetch(['gone', 0, 0]) is None
  assert mixed.fetch(['long', 0, 1]) is None


@pytest.mark.parametrize('shards', [1, 2, 8])
def test_a_record_that_is_broken_in_every_pass_counts_once(shards, caplog, monkeypatch):
  """24 records, one of them broken, gone through a hundred times."""
  monkeypatch.setattr(log.logger, 'propagate', True)
  of = shuffled(24)

  def make(index):
    if of(index) == 7:
      raise ValueError('record 7 is broken')
    return [[('short', index)]]

  made = mixture.Member(make, None, ALWAYS, 24)
  with caplog.at_level(logging.INFO):
    for shard in range(shards):
      mixed = mix({'short': made}, shard=shard, shards=shards, broken=0.01)
      take(mixed, 100 * 23 // shards)
      assert mixed.get_state()['sources']['short']['broken'] < mixture.LEAST
  assert caplog.text.count('short: left out: record 7') == 1


@pytest.mark.parametrize('shards', [1, 2, 8])
def test_too_many_broken_records_end_a_run_however_few_a_shard_takes(shards):
  of = shuffled(100)
  made = {'short': member('short', broken=lambda k: of(k) < 40, size=100)}
  mixed = mix(made, shard=shards - 1, shards=shards, broken=0.01)
  with pytest.raises(ValueError, match='at most 1.00% broken documents in data.source'):
    take(mixed, 1000)


def test_records_that_break_later_end_a_run_as_well():
  of = shuffled(1000)
  made = {'short': member('short', broken=lambda k: k > 2000 and of(k) < 50, size=1000)}
  mixed = mix(made, broken=0.03)
  take(mixed, 2000)
  with pytest.raises(ValueError, match='found 31 of the first 1000'):
    take(mixed, 1000)


@pytest.mark.parametrize('kind', ['broken', 'unsuited'])
@pytest.mark.parametrize('shards', [1, 8])
def test_a_source_without_anything_of_use_is_not_gone_through_for_ever(kind, shards):
  made = {'short': member('short', size=9, **{kind: lambda index: True})}
  mixed = mix(made, shards=shards, broken=0.5)
  with pytest.raises(
    ValueError, match=r'data.sources.short, found .*: short \d+(:| is)'
  ):
    mixed.draw(0)


def test_what_is_not_for_a_stage_is_passed_over_and_told_once(caplog, monkeypatch):
  """On all shards together; nothing is counted as broken, and the order stays."""
  monkeypatch.setattr(log.logger, 'propagate', True)
  made = {'short': member('short', unsuited=lambda k: k % 3 == 1, size=36)}
  drawn = []
  with caplog.at_level(logging.INFO):
    for shard in range(2):
      mixed = mix(made, shard=shard, shards=2)
      drawn.append([index for _, index in take(mixed, 600)])
      assert mixed.get_state()['sources']['short']['broken'] == 0
  assert drawn[0] == [k for k in range(0, 1800, 2) if k % 3 != 1]
  (line,) = caplog.messages
  assert line == 'data.sources.short: passed over: short 4: for others'


@pytest.mark.parametrize('done', [5, 500])
def test_a_state_that_counted_broken_draws_goes_on(done):
  """As it was written before passes were told apart: 21 broken in all."""
  made = {'short': member('short', broken=lambda k: k % 24 == 7, size=24)}
  mixed = mix(made, broken=0.01)
  state = mixed.get_state()
  state['sources']['short'] = {'next': done, 'filled': 0, 'broken': 21}
  mixed.set_state(json.loads(json.dumps(state)))
  if done == 500:
    take(mixed, 600)
  else:  # still in the first pass: as many as ever
    with pytest.raises(ValueError, match='found 22 of the first 8'):
      take(mixed, 600)


@pytest.mark.parametrize('weight', [float('nan'), float('inf'), -1.0])
def test_weights_are_numbers(weight):
  with pytest.raises(ValueError, match='expected weights of at least 0'):
    mixture.Schedule((1.0, weight), (0, 5))


@pytest.mark.parametrize('kind', [OSError, MemoryError, RecursionError, KeyError])
@pytest.mark.parametrize('workers', [0, 3])
def test_what_is_no_fault_of_a_document_is_raised_as_it_is(kind, workers):
  def make(index):
    if index == 5:
      raise kind('in a decoder')
    return [[index]]

  with futures.ThreadPoolExecutor(max(1, workers)) as pool:
    members = {'short': mixture.Member(make, None, ALWAYS, 10)}
    mixed = mix(members, broken=1.0, pool=pool if workers else None)
    take(mixed, 5)
    with pytest.raises(kind, match='in a decoder'):
      mixed.draw(0)
