"""The table and the page: what is read, how it is ranked, what is shown."""

import csv
import dataclasses
import html.parser

import pytest

from transfusion_jax.core import sealed_json
from transfusion_jax.sweeping import figures, page, scores, table
from transfusion_jax.sweeping import ledger as ledger_lib
from transfusion_jax.training import metrics

SCORE = table.Metric.named('scenes/two_objects')


@pytest.fixture
def rows(ablations, places, leave) -> list[table.Row]:
  """Four are through, one of them elsewhere; one has failed twice; four are to come."""
  leave(0, loss=1.0, score=0.5)
  leave(4, loss=3.0, score=0.75)
  leave(6, loss=0.5, score=0.25)
  leave(2, loss=4.0, score=0.125)
  ended = [(0, 'done', 10.0), (4, 'done', 20.0), (6, 'done', 30.0)]
  ended += [(1, 'failed', 1.5), (1, 'skipped', 2.5)]
  records = [
    ledger_lib.Record(trial, {}, status, 0, seconds, {})
    for trial, status, seconds in ended
  ]
  return table.rows(ablations, places, records)


def test_scores_are_the_last_steps_with_the_trials_own_settings(
  ablations, places, leave
):
  leave(0, loss=1.0, score=0.5)
  (own,) = metrics.read(places[0].evaluation)
  others = [
    {**own, 'step': 50, 'values': {'two_objects': 0.1}},
    {**own, 'config': {}, 'values': {'two_objects': 0.2}},
    {**own, 'parameters': 'params', 'values': {'two_objects': 0.3}},
  ]
  with places[0].evaluation.open('ab') as file:
    file.writelines(map(sealed_json.line, others))
  found = scores.final(ablations[0].run, places[0])
  assert found == {'loss': 1.0 + 4.5, 'scenes/two_objects': 0.5}


def test_final_losses_are_means_of_what_was_seen():
  records = [
    {'step': 10 * k, 'loss': float(k), 'loss_image': 0.0} for k in range(1, 11)
  ]
  assert scores.losses(records) == {'loss': 10.0}
  records[-1]['loss_image'] = 2.0
  records.append({'step': 101, 'loss': 20.0, 'loss_image': 0.0})
  assert scores.losses(records) == {'loss': 15.0, 'loss_image': 2.0}
  assert scores.losses([]) == {}


def test_ranking(rows):
  def order(name: str) -> list[int]:
    metric = table.Metric.named(name)
    table.check(rows, metric)
    return [row.trial for row in sorted(rows, key=metric.rank)]

  assert order('scenes/two_objects') == [4, 0, 6, 2, 1, 3, 5, 7, 8]
  assert order('-scenes/two_objects')[:4] == [2, 6, 0, 4]
  assert order('-loss')[:4] == [6, 0, 4, 2]
  with pytest.raises(ValueError, match=r"one of loss, scenes/two_objects, found 'los'"):
    order('-los')


def test_rows_say_what_became_of_each_trial(rows):
  assert [row.status for row in rows] == [
    *('done', 'skipped', 'elsewhere', 'not begun', 'done'),
    *('not begun', 'done', 'not begun', 'not begun'),
  ]
  assert [row.seconds for row in rows[:2]] == [10.0, 4.0]
  assert rows[6].settings['model.adapter.unet.widths'] == (32, 64)
  assert rows[0].settings['model.adapter.linear.patch'] == 1
  assert rows[4].changed == {'model.adapter.linear.patch'}


def test_csv(tmp_path, rows):
  path = tmp_path / 'sweep.csv'
  table.write_csv(path, sorted(rows, key=SCORE.rank))
  with path.open(newline='') as file:
    read = list(csv.DictReader(file))
  assert [int(each['trial']) for each in read] == [4, 0, 6, 2, 1, 3, 5, 7, 8]
  assert read[0]['model.adapter.linear.patch'] == '2'
  scored = [each['scenes/two_objects'] for each in read]
  assert scored == ['0.75', '0.5', '0.25', '0.125', *[''] * 5]
  assert read[2]['model.adapter.unet.widths'] == '(32, 64)'
  assert read[0]['status'] == 'done'


@pytest.mark.parametrize(
  'text',
  ['=1+1', '+1', '-1', '@SUM(A1)', '\t=1', '\r=1', ' =1', '\n=1', '＝1', '=cmd|x!A0'],
)
def test_no_text_of_a_cell_is_a_formula(text, tmp_path, rows):
  assert table.cell(text) == f"'{text}"
  row = dataclasses.replace(
    rows[0], status=text, settings={text: text, 'b': -1.5, 'c': None, 'd': ('=1',)}
  )
  path = tmp_path / 'sweep.csv'
  table.write_csv(path, [row])
  with path.open(newline='') as file:
    names, values = csv.reader(file)
  assert names[3] == values[1] == values[3] == f"'{text}"
  assert values[4:7] == ['-1.5', '', "('=1',)"]


@pytest.mark.parametrize('value', [0, -1, -2.5, 1e-9, 'a = b', 'a-b', '', 'done'])
def test_numbers_and_plain_texts_stay_as_they_are(value):
  assert table.cell(value) == value


class Page(html.parser.HTMLParser):
  """Text, tags and links of a page."""

  def __init__(self, text: str):
    super().__init__()
    self.tags, self.links, self.text = [], [], ''
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    values = dict(attributes)
    self.links += [values[name] for name in ('href', 'src') if name in values]

  def handle_data(self, data):
    self.text += ' '.join(data.split()) + ' '


def shown(tmp_path, rows) -> Page:
  path = tmp_path / 'sweep.html'
  reports = {4: tmp_path / 'trials' / '004' / 'report.html'}
  page.write(path, sorted(rows, key=SCORE.rank), metric=SCORE, reports=reports)
  return Page(path.read_text())


def test_the_page_shows_the_best_and_all_trials(tmp_path, rows):
  found = shown(tmp_path, rows)
  assert 'Best: trial 4, 0.75' in found.text
  for word in rows[4].command:
    assert f' {word} ' in found.text
  assert '3 done, 1 elsewhere, 1 skipped, 4 not begun' in found.text
  assert found.tags.count('tr') == 1 + len(rows)
  # All together, and what varies among those that have a score.
  assert found.tags.count('svg') == 1 + 4
  outside = [link for link in found.links if not link.startswith('#')]
  assert outside == ['trials/004/report.html']
  assert 'script' not in found.tags


def test_a_page_without_scores(tmp_path, ablations, places):
  found = shown(tmp_path, table.rows(ablations, places, []))
  assert 'No trial has this score yet' in found.text
  assert '9 not begun' in found.text
  assert 'svg' not in found.tags


def test_axes():
  words = figures.axis(['b', 'a', 'b'])
  assert words.places == {'a': 0.0, 'b': 1.0}
  few = figures.axis([20.0, 1.0, 5.0])
  assert few.places == {1.0: 0.0, 5.0: 0.5, 20.0: 1.0}
  assert [text for _, text in few.ticks] == ['1', '5', '20']
  decades = figures.axis([1.0, 10.0, 100.0], most=1)
  assert decades.places == {1.0: 0.0, 10.0: 0.5, 100.0: 1.0}
  linear = figures.axis([0.0, 1.0, 4.0], most=1)
  assert linear.places == {0.0: 0.0, 1.0: 0.25, 4.0: 1.0}
  assert figures.axis([7]).places == {7: 0.5}
  assert figures.axis([True, False, None]).even
