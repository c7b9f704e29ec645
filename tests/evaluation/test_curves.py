"""Curves thinned while they are read: short runs are whole, no peak is lost."""

import itertools

import numpy as np
import pytest

from transfusion_jax.evaluation import curves


def lines(count: int):
  """Lines with a loss that falls, a peak and a dip of one step, and gaps."""
  for step in range(1, count + 1):
    loss = 1 + 1 / step
    if step == count // 3:
      loss = 50.0
    if step == count // 2:
      loss = -50.0
    yield {'step': step, 'loss': loss, 'loss_image_3': float(step % 2), 'other': 1.0}


def test_short_runs_are_left_as_they_are():
  found = curves.thinned(lines(curves.WHOLE))
  assert list(found) == ['loss', 'loss_image_3']
  curve = found['loss']
  np.testing.assert_array_equal(curve.steps, np.arange(1, curves.WHOLE + 1))
  wanted = [line['loss'] for line in lines(curves.WHOLE)]
  np.testing.assert_array_equal(curve.values, wanted)
  assert curve.means is curve.values
  assert set(found['loss_image_3'].values) == {1.0}  # 0: nothing was seen


@pytest.mark.parametrize('count', [2049, 4096, 5000, 100_001])
def test_long_runs_keep_peaks_and_means(count):
  curve = curves.thinned(lines(count))['loss']
  assert len(curve.values) <= 2 * curves.WHOLE
  assert len(curve.means) <= curves.WHOLE
  assert (np.diff(curve.steps) > 0).all()
  assert (np.diff(curve.mean_steps) > 0).all()
  at = dict(zip(curve.steps, curve.values, strict=True))
  assert at[count // 3] == 50.0
  assert at[count // 2] == -50.0
  values = {line['step']: line['loss'] for line in lines(count)}
  assert all(values[step] == value for step, value in at.items())
  assert np.mean(curve.means) == pytest.approx(np.mean(list(values.values())), rel=0.02)
  assert curve.mean_steps[0] < 0.01 * count
  assert curve.mean_steps[-1] > 0.99 * count


def test_groups_of_any_number_join(monkeypatch):
  monkeypatch.setattr(curves, 'WHOLE', 4)
  for count in range(1, 200):
    curve = curves.thinned(lines(count))['loss']
    values = [line['loss'] for line in lines(count)]
    assert curve.values.max() == max(values)
    assert curve.values.min() == min(values)
    assert len(curve.means) <= 12


def test_curves_may_begin_late_and_what_is_no_number_is_left_out(monkeypatch):
  monkeypatch.setattr(curves, 'WHOLE', 4)
  odd = [float('nan'), float('inf'), None, 'many', 10**400, True, [1]]
  early = [{'step': k, 'loss': 1.0} for k in range(1, 40)]
  late = [{'step': k, 'loss': x, 'psnr': 9.0} for k, x in enumerate(odd * 9, 40)]
  found = curves.thinned(early + late)
  assert set(found['loss'].values) == {1.0}
  assert found['psnr'].steps.min() >= 40
  assert set(found['psnr'].means) == {9.0}


def test_memory_does_not_grow_with_the_lines():
  """A generator is read once, and never turned into a list."""
  kept = []

  def watched():
    for record in itertools.islice(lines(50_000), 50_000):
      kept.append(record['step'])
      yield dict(record)

  curves.thinned(watched())
  assert kept == list(range(1, 50_001))


def test_extremes_of_a_line():
  steps = np.arange(10_000, dtype=np.float64)
  values = np.sin(steps)
  values[1234], values[4321] = 9.0, -9.0
  found_steps, found = curves.extremes(steps, values, 300)
  assert len(found) <= 300
  assert (found.max(), found.min()) == (9.0, -9.0)
  assert (found_steps[0], found_steps[-1]) == (0, 9999)
