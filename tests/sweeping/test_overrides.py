"""Sets of overrides: counts, order, seeds, and what cannot be put together."""

import math

import pytest

from transfusion_jax.sweeping import overrides


def test_grid_is_every_combination_the_last_field_fastest():
  found = overrides.grid({'a': (1, 2), 'b.c': 'xyz'})
  assert [(each['a'], each['b.c']) for each in found] == [
    *[(1, 'x'), (1, 'y'), (1, 'z')],
    *[(2, 'x'), (2, 'y'), (2, 'z')],
  ]
  assert overrides.grid({}) == [{}]


def test_side_by_side_pairs_sets():
  found = overrides.side_by_side(
    overrides.grid({'width': (64, 128)}), ({'rate': rate} for rate in (2e-3, 1e-3))
  )
  assert found == [{'width': 64, 'rate': 2e-3}, {'width': 128, 'rate': 1e-3}]


def test_sets_of_different_sizes_are_refused():
  with pytest.raises(ValueError, match='sizes 2, 1'):
    overrides.side_by_side([{'a': 1}, {'a': 2}], [{'b': 1}])


def test_sets_nest():
  inner = overrides.chain(
    overrides.grid({'kind': ('unet',), 'widths': ((32, 64), (64,))}),
    [{'kind': 'linear', 'patch': 2}],
  )
  found = overrides.product(
    inner, overrides.draw(3, {'rate': overrides.uniform(0.0, 1.0)})
  )
  assert len(found) == 3 * 3
  assert found[0].keys() == {'kind', 'widths', 'rate'}
  assert found[-1].keys() == {'kind', 'patch', 'rate'}
  assert found[0]['rate'] == found[3]['rate']


@pytest.mark.parametrize('combine', [overrides.product, overrides.side_by_side])
def test_a_field_of_two_sets_is_refused(combine):
  with pytest.raises(ValueError, match=r'expected a\.b once'):
    combine([{'a': {'b': 1}}], [{'a.b': 2}])


def test_nested_overrides_are_flattened():
  assert overrides.flat({'a': {'b': {'c': 1}, 'd': (2,)}, 'e.f': 3}) == {
    'a.b.c': 1,
    'a.d': (2,),
    'e.f': 3,
  }
  with pytest.raises(ValueError, match=r'a\.b once'):
    overrides.flat({'a': {'b': 1}, 'a.b': 1})


FIELDS = {
  'rate': overrides.log_uniform(1e-4, 1e-2),
  'drop': overrides.uniform(0.1, 0.3),
  'kind': overrides.choice('linear', 'unet'),
}


def test_draws_depend_on_the_seed_alone():
  assert overrides.draw(5, FIELDS, seed=3) == overrides.draw(5, FIELDS, seed=3)
  assert overrides.draw(5, FIELDS, seed=3) != overrides.draw(5, FIELDS, seed=4)


def test_more_draws_and_more_fields_leave_the_others_as_they_are():
  few = overrides.draw(4, {'rate': FIELDS['rate']})
  many = overrides.draw(9, FIELDS)
  assert [each['rate'] for each in few] == [each['rate'] for each in many[:4]]


def test_distributions():
  drawn = overrides.draw(400, FIELDS)
  rates = [each['rate'] for each in drawn]
  drops = [each['drop'] for each in drawn]
  assert 1e-4 <= min(rates) < 2e-4 < 5e-3 < max(rates) <= 1e-2
  assert 0.1 <= min(drops) < 0.11 < 0.29 < max(drops) <= 0.3
  middle = sum(math.log10(rate) for rate in rates) / len(rates)
  assert abs(middle - -3) < 0.1  # of a uniform draw: -2.4
  assert abs(sum(drops) / len(drops) - 0.2) < 0.01
  assert 150 < sum(each['kind'] == 'unet' for each in drawn) < 250


def test_bounds_are_checked():
  with pytest.raises(ValueError, match='in order'):
    overrides.uniform(1.0, 0.0)
  with pytest.raises(ValueError, match='positive'):
    overrides.log_uniform(0.0, 1.0)
