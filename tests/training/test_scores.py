"""The score by which a checkpoint stays: from training or from an evaluator."""

import pytest

from transfusion_jax.core import sealed_json
from transfusion_jax.training import scores

LOGGED = {'step': 20, 'loss_text': 0.5, 'batches': ['aa']}


@pytest.fixture
def evaluation(tmp_path):
  path = tmp_path / 'evaluation.jsonl'
  records = [
    {'step': 10, 'name': 'scenes', 'values': {'pair': 0.9}},
    {'step': 20, 'name': 'scenes', 'values': {'pair': 0.7, 'odd': None}},
  ]
  path.write_bytes(b''.join(map(sealed_json.line, records)))
  return path


@pytest.mark.parametrize(
  ('name', 'score'),
  [('', None), ('loss_text', 0.5), ('-loss_text', -0.5), ('scenes.pair', 0.7)],
)
def test_of_a_step(evaluation, name, score):
  assert scores.of(evaluation, LOGGED, step=20, name=name) == score


@pytest.mark.parametrize('name', ['scenes.odd', 'scenes.pairs', '-loss', 'batches'])
def test_what_is_not_known_is_told_with_what_is(evaluation, name, monkeypatch):
  lines = []
  monkeypatch.setattr(scores.log, 'once', lines.append)
  assert scores.of(evaluation, LOGGED, step=20, name=name) is None
  assert lines[0].endswith('known: loss_text, scenes.pair, step')


def test_another_step_is_no_score(evaluation):
  assert scores.of(evaluation, LOGGED, step=30, name='loss_text') is None
