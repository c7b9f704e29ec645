"""The report: exact scores, a page that stands alone, and nothing half written."""

import dataclasses
import html.parser
import json
import pathlib
import re

import numpy as np
import pytest

from transfusion_jax.evaluation import curves, plots, report

GOALS = (
  report.Goal('background', 'background colour right', 0.99, None),
  report.Goal('two_objects', 'two objects both right', 0.7, None),
  report.Goal('relation', 'relation right', 0.8, None),
  report.Goal('heldout', 'never trained on', None, None),
  report.Goal('wall_seconds', 'the whole command', None, 1200.0),
)

SCORES = {
  'background': 0.1 + 0.2,
  'two_objects': 0.5,
  'relation': float('nan'),
  'heldout': 0.25,
  'wall_seconds': 1154,
  'extra': float(np.float32(1) / 3),
}


class Page(html.parser.HTMLParser):
  """Collects what a page refers to, what it says, and which elements it has."""

  def __init__(self, text: str):
    super().__init__()
    self.links, self.words, self.tags = [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.links += [value for name, value in attrs if name in ('src', 'href', 'srcset')]

  def handle_data(self, data):
    self.words += data.split()

  @property
  def text(self) -> str:
    return ' '.join(self.words)


def records(steps: int = 40) -> list[dict]:
  buckets = {f'loss_image_{j}': 0.1 + j for j in range(10)}
  return [
    {
      'step': step,
      'loss': 2 / step,
      'loss_text': 1 / step,
      'loss_image': 0.5,
      **buckets,
    }
    for step in range(1, steps + 1)
  ]


def tile(text: str, good: bool | None = None) -> report.Tile:
  picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
  return report.Tile(picture, text, good)


def made(**changes) -> report.Run:
  """A run; `scores` are those of step 40."""
  scores = changes.pop('scores', SCORES)
  arguments = {
    'name': 'A run',
    'command': 'python -m transfusion_jax.train',
    'scores': [(40, scores)] if scores else [],
    'goals': GOALS,
    'galleries': {
      'scenes/single': report.Gallery('Pictures', 'New.', (tile('a panda', True),))
    },
    'curves': {},
    'facts': {'steps': '40'},
    'attribution': 'OpenMoji, CC BY-SA 4.0',
  }
  return report.Run(**(arguments | changes))


def write(workdir: pathlib.Path, **changes) -> tuple[dict, Page, str]:
  path = report.write(workdir, made(**changes))
  assert path == workdir / 'report.html'
  text = path.read_text(encoding='utf-8')
  return json.loads((workdir / 'report.json').read_text()), Page(text), text


def write_several(path: pathlib.Path, *runs: report.Run) -> Page:
  report.write_page(path, runs)
  return Page(path.read_text(encoding='utf-8'))


def test_scores_are_exact_and_flat(tmp_path):
  written, _, _ = write(tmp_path / 'new' / 'run')
  for name in ('background', 'two_objects', 'heldout', 'wall_seconds', 'extra'):
    assert written[name] == SCORES[name]


def test_missing_scores_are_null(tmp_path):
  written, page, _ = write(tmp_path, scores={'relation': float('inf'), 'extra': None})
  assert {goal.name for goal in GOALS} < written.keys()
  assert all(written[goal.name] is None for goal in GOALS)
  assert written['extra'] is None
  assert set(written['about']['verdicts'].values()) == {'not measured'}
  assert '0 of 5 goals reached' in page.text


def test_verdicts_are_words(tmp_path):
  written, page, _ = write(tmp_path)
  assert written['about']['verdicts'] == {
    'background': 'missed',
    'two_objects': 'missed',
    'relation': 'not measured',
    'heldout': 'reported',
    'wall_seconds': 'reached',
  }
  for word in ('✗ missed', '✓ reached', 'not measured'):
    assert word in page.text


@pytest.mark.parametrize(
  ('low', 'high', 'value', 'verdict'),
  [
    (0.5, None, 0.5, 'reached'),
    (0.5, None, 0.4999, 'missed'),
    (None, 2.0, 2.0, 'reached'),
    (None, 2.0, 2.0001, 'missed'),
    (1.0, 2.0, 0.0, 'missed'),
    (None, None, 0.0, 'reported'),
    (0.5, None, None, 'not measured'),
  ],
)
def test_goal(low, high, value, verdict):
  assert report.Goal('name', '', low, high).verdict(value) == verdict


def test_page_stands_alone(tmp_path):
  _, page, text = write(tmp_path, curves={'transfusion': curves.thinned(records())})
  assert page.links
  assert all(link.startswith(('data:image/png;base64,', '#')) for link in page.links)
  assert not re.search(r'https?://|@import|file:|<script|<link', text)
  assert all('url(#' in use for use in re.findall(r'url\([^)]*\)', text))
  assert "default-src 'none'" in text


def test_pictures_are_inline_and_marked(tmp_path):
  tiles = (tile('a', True), tile('b', False), tile('c'))
  _, page, _ = write(tmp_path, galleries={'a': report.Gallery('Pictures', 'N.', tiles)})
  assert page.tags.count('img') == 3
  assert page.text.count('✓ right') == 1
  assert page.text.count('✗ wrong') == 1
  assert '1 of 2 right' in page.text


def test_strips_have_a_row_of_their_own(tmp_path):
  wide = report.Tile(np.zeros((32, 263, 3), np.uint8), 'from noise', None)
  shown = report.Gallery('Strips', 'N.', (wide, tile('a')))
  _, _, text = write(tmp_path, galleries={'a': shown})
  figures = re.findall(r'<figure class="([^"]*)">\s*<img [^>]*alt="([^"]*)"', text)
  assert figures == [('card tile strip', 'from noise'), ('card tile', 'a')]


def test_text_is_escaped(tmp_path):
  evil = '"><script>alert(1)</script> & <b>'
  _, page, text = write(
    tmp_path,
    name=evil,
    command=evil,
    galleries={evil: report.Gallery(evil, evil, (tile(evil, True),))},
    curves={evil: curves.thinned(records())},
    facts={evil: evil},
    attribution=evil,
    scores={evil: 1.0},
  )
  assert 'script' not in page.tags
  assert '<script>' not in text
  assert evil in page.text


def test_every_loss_is_plotted(tmp_path):
  _, page, _ = write(tmp_path, curves={'transfusion': curves.thinned(records())})
  assert page.tags.count('svg') == 4  # loss, text, image, and image by noise level
  for name in ('loss_text', 'loss_image by noise level', '0.9 – 1.0'):
    assert name in page.text


def test_plots_take_the_colour_of_the_text(tmp_path):
  _, _, text = write(tmp_path, curves={'transfusion': curves.thinned(records())})
  assert 'currentColor' in text
  assert '#010203' not in text


@pytest.mark.parametrize(
  'curve',
  [
    [],
    [{'step': 1, 'loss': 1.0}],
    [{'step': 1, 'learning_rate': 1.0}, {'step': 2, 'learning_rate': 1.0}],
    [{'step': k, 'loss_image_3': 0.0, 'loss': float('nan')} for k in range(9)],
  ],
)
def test_nothing_to_plot(tmp_path, curve):
  _, page, _ = write(tmp_path, curves={'transfusion': curves.thinned(curve)})
  assert 'svg' not in page.tags
  assert 'Nothing was logged.' in page.text


def test_gaps_in_curves_are_left_out(tmp_path):
  curve = records() + [{'step': 41, 'loss': None}, {'step': 42, 'loss': float('nan')}]
  _, page, text = write(tmp_path, curves={'transfusion': curves.thinned(curve)})
  assert page.tags.count('svg') == 4
  assert 'nan' not in text.lower().split('<section>')[-1]


def test_all_empty(tmp_path):
  empty = report.Gallery('Pictures', '', ())
  written, page, _ = write(
    tmp_path, scores={}, goals=(), galleries={'a': empty}, curves={}, facts={}
  )
  assert written.keys() == {'about'}
  assert 'No pictures.' in page.text
  write(tmp_path, galleries={})


def test_same_input_same_page(tmp_path):
  logged = {'transfusion': curves.thinned(records())}
  pages = [write(tmp_path / name, curves=logged)[2] for name in 'ab']
  assert pages[0] == pages[1]


def test_writes_whole_files_or_none(tmp_path, monkeypatch):
  write(tmp_path)
  before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
  assert before.keys() == {'report.json', 'report.html'}

  def fail(*_):
    raise OSError('disk full')

  monkeypatch.setattr(report.pages.os, 'fsync', fail)
  with pytest.raises(OSError, match='disk full'):
    write(tmp_path, scores={'background': 1.0})
  for name, content in before.items():
    assert (tmp_path / name).read_bytes() == content


def test_steps_stand_in_a_table_and_in_plots(tmp_path):
  steps = [(20, {'a/loss': 0.5, 'a/count': 7.0}), (40, {'a/loss': 0.25})]
  run = made(goals=(), galleries={})
  page = write_several(tmp_path / 'page.html', dataclasses.replace(run, scores=steps))
  assert 'step 20 step 40' in page.text
  assert 'a/ loss 0.5 0.25' in page.text
  assert 'a/ count 7 –' in page.text
  assert page.tags.count('svg') == 1  # the count has but one step


def test_runs_stand_side_by_side(tmp_path):
  one = made(name='one', curves={'transfusion': curves.thinned(records())})
  other = made(
    name='two',
    curves={'transfusion': curves.thinned(records(20))},
    scores={'extra': 0.125},
  )
  page = write_several(tmp_path / 'page.html', one, other)
  assert page.tags.count('svg') == 3 + 2  # losses together, noise levels for each
  assert page.tags.count('img') == 2
  assert page.text.count('Pictures New.') == 1
  assert 'extra – 0.3333 0.125' in page.text
  assert page.text.count('OpenMoji') == 1


def test_what_a_plot_leaves_out():
  scores = [(1, {'x': 1.0}), (2, {}), (3, {'x': float('inf')})]
  steps, values = plots.series(scores, 'x')
  assert (steps.tolist(), values.tolist()) == ([1.0], [1.0])


def test_losses_by_noise_level_are_a_plot_and_no_rows(tmp_path):
  def scores(first: float) -> dict[str, float]:
    return {f'own/loss_image_{k}': first - k / 20 for k in range(10)}

  steps = [(20, {'own/loss_image': 0.7, **scores(1.0)}), (40, scores(0.9))]
  run = made(goals=(), galleries={}, trouble=('Evaluator a failed <b>',))
  page = write_several(tmp_path / 'page.html', dataclasses.replace(run, scores=steps))
  assert page.tags.count('svg') == 1
  for words in ('noise level', 'step 20', 'step 40', 'Evaluator a failed <b>'):
    assert words in page.text
  assert 'own/ loss_ image_' not in page.text
  two = [dataclasses.replace(run, scores=steps, name=name) for name in ('a', 'b')]
  assert write_several(tmp_path / 'page.html', *two).tags.count('svg') == 1


def test_what_never_changes_is_no_plot(tmp_path):
  steps = [(step, {'a/count': 7.0}) for step in (20, 40)]
  run = made(goals=(), galleries={})
  page = write_several(tmp_path / 'page.html', dataclasses.replace(run, scores=steps))
  assert 'svg' not in page.tags


def test_a_pair_takes_two_places_and_a_truth_stands_below(tmp_path):
  pair = report.Tile(np.zeros((32, 65, 3), np.uint8), 'said', None, 'a <i>fox</i>')
  long = report.Tile(np.zeros((32, 32, 3), np.uint8), 'x' * 1000, None)
  shown = report.Gallery('Pairs', 'N.', (pair, long))
  _, page, text = write(tmp_path, galleries={'a': shown})
  assert re.findall(r'<figure class="([^"]*)"', text) == ['card tile pair', 'card tile']
  assert 'a <i>fox</i>' in page.text
  assert 'x' * (report.LONGEST - 1) + '…' in text
  assert 'x' * report.LONGEST not in text
