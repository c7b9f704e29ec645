"""A tiny model in lm-eval, where that is installed, on tasks in local files."""

import dataclasses
import functools
import importlib.util
import json
import math
import types

import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.evaluation import extras, harness

CHOICE = """
task: letters
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/letters.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{query}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ROLLING = """
task: whole
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/letters.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
WRITTEN = """
task: next
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/letters.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{query}}"
doc_to_target: "{{text}}"
generation_kwargs: {until: [" c"], max_gen_toks: 6}
metric_list: [{metric: exact_match}]
"""
QUESTIONS = [
  {'query': 'a b c', 'choices': ['d', 'e f', 'g'], 'gold': k % 3, 'text': 'h i ' * k}
  for k in range(1, 8)
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  pytest.importorskip('lm_eval')
  monkeypatch.setenv('HF_DATASETS_CACHE', str(tmp_path / 'cache'))
  lines = '\n'.join(map(json.dumps, QUESTIONS))
  (tmp_path / 'letters.jsonl').write_text(lines)
  for name, task in (('letters', CHOICE), ('whole', ROLLING), ('next', WRITTEN)):
    (tmp_path / f'{name}.yaml').write_text(task.replace('FOLDER', str(tmp_path)))
  return tmp_path


def made(folder, *tasks, **changes):
  config = harness.HarnessConfig(
    kind='harness', tasks=tasks, folder=str(folder), shots=-1, limit=0
  )
  return harness.Harness(dataclasses.replace(config, **changes), rows=4)


@functools.cache
def nats(prefix: tuple[int, ...], token: int) -> float:
  """Of one token behind others, by a full forward pass of them all."""
  logits, _ = tiny.read_whole([tiny.LAYOUT.of_ids(prefix)])
  shifted = logits[0].astype(np.float64)
  return (
    float(np.log(np.exp(shifted - shifted.max()).sum()) + shifted.max())
    - (shifted[token])
  )


def slow(context: list[int], continuation: list[int]) -> float:
  return sum(
    nats((*context, *continuation[:k]), token) for k, token in enumerate(continuation)
  )


def asked(*arguments):
  """Requests as tasks make them."""
  instance = pytest.importorskip('lm_eval.api.instance')
  return [instance.Instance('any', {}, each, 0) for each in arguments]


@functools.cache
def model(context: int = tiny.LENGTH):
  pytest.importorskip('lm_eval')
  from transfusion_jax.evaluation import harness_model

  writer = dataclasses.replace(tiny.writer(), context=context)
  return harness_model.WriterModel(writer, rows=2)


def test_likelihoods_are_those_of_full_forward_passes():
  bos, encode = tiny.SPECIAL.bos, tiny.TOKENIZER.encode
  pairs = [('a b', ' c d'), ('', 'e'), ('f ', 'g h'), ('a', ' b c d e')]
  found = model().loglikelihood(asked(*pairs))
  for (context, more), (likelihood, _) in zip(pairs, found, strict=True):
    wanted = -slow([bos, *encode(context)], encode(more))
    np.testing.assert_allclose(likelihood, wanted, rtol=1e-4)


def test_greedy_is_what_the_model_would_say():
  logits, _ = tiny.read_whole([tiny.prompt(tiny.text('a b'))])
  best = int(np.argmax(logits[0][: len(tiny.WORDS)]))
  other = (best + 1) % len(tiny.WORDS)
  pairs = [('a b', f' {tiny.WORDS[k]}') for k in (best, other)]
  (_, first), (_, second) = model().loglikelihood(asked(*pairs))
  assert (first, second) == (int(np.argmax(logits[0])) == best, False)


def test_ids_are_split_where_the_whole_is(monkeypatch):
  """The pair 'ab' is one id where it stands in the whole, whoever has the a."""
  pieces = ['x', 'ab', ' c', 'c', 'a', ' ']

  class Pairs:
    special = tiny.SPECIAL

    def encode(self, text):
      found, k = [], 0
      while k < len(text):
        size = 2 if text[k : k + 2] in ('ab', ' c') else 1
        found.append(pieces.index(text[k : k + size]))
        k += size
      return found

  one = model()
  monkeypatch.setattr(one, '_writer', types.SimpleNamespace(tokenizer=Pairs()))
  bos = tiny.SPECIAL.bos
  assert one._split('xa', 'bc') == ([bos, 0, 1], [3])
  assert one._split('x ', 'c') == ([bos, 0], [2])
  assert one._split('', 'c') == ([bos], [3])


@pytest.mark.parametrize('words', [3, 7, 8, 15, 20])
def test_rolling_counts_every_token_once(words):
  context = 8
  ids = np.random.default_rng(words).integers(0, len(tiny.WORDS), words).tolist()
  text = ' '.join(tiny.WORDS[k] for k in ids)
  (found,) = model(context).loglikelihood_rolling(asked((text,)))
  wanted, done = 0.0, 0
  while done < words:  # windows of 7 tokens; the last one is filled with what precedes
    end = min(done + context - 1, words)
    first = max(end - (context - 1), 0)
    before = [tiny.SPECIAL.bos] if first == 0 else ids[first - 1 : first]
    wanted -= slow([*before, *ids[first:done]], ids[done:end])
    done = end
  np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_a_long_context_loses_its_beginning_and_a_long_answer_is_refused():
  short = model(8)
  words = ' '.join('a b c d e f g h'.split())
  (found,) = short.loglikelihood(asked((words, ' i j')))
  wanted = -slow(tiny.TOKENIZER.encode('c d e f g h'), tiny.TOKENIZER.encode('i j'))
  np.testing.assert_allclose(found[0], wanted, rtol=1e-4)
  with pytest.raises(ValueError, match='continuations of at most 7 tokens, found'):
    short.loglikelihood(asked(('a', ' b c d e f g h i')))
  with pytest.raises(ValueError, match='that write fewer than 8 tokens, found one of'):
    short.generate_until(asked(('a', {'until': ['b']})))


def test_tasks_of_local_files(folder):
  found = dict(made(folder, 'letters', 'whole', 'next')(tiny.writer()))
  bos, encode = tiny.SPECIAL.bos, tiny.TOKENIZER.encode
  context = [bos, *encode('a b c')]
  scores = [-slow(context, encode(each)) for each in QUESTIONS[0]['choices']]
  right = np.mean([question['gold'] == np.argmax(scores) for question in QUESTIONS])
  np.testing.assert_allclose(found['letters_acc'], right)
  assert found['letters_acc_stderr'] > 0
  lengths = [len(each) for each in QUESTIONS[0]['choices']]
  best = np.argmax(np.array(scores) / lengths)
  right = np.mean([question['gold'] == best for question in QUESTIONS])
  np.testing.assert_allclose(found['letters_acc_norm'], right)
  total = sum(slow([bos], encode(question['text'])) for question in QUESTIONS)
  size = sum(len(question['text']) for question in QUESTIONS)
  np.testing.assert_allclose(
    found['whole_bits_per_byte'], total / size / math.log(2), rtol=1e-4
  )
  assert found['next_exact_match'] == 0
  again = dict(made(folder, 'letters', limit=2)(tiny.writer()))
  right = np.mean([question['gold'] == np.argmax(scores) for question in QUESTIONS[:2]])
  np.testing.assert_allclose(again['letters_acc'], right)


def test_an_evaluator_can_be_called_again(folder):
  evaluate = made(folder, 'letters', shots=2)
  assert dict(evaluate(tiny.writer())) == dict(evaluate(tiny.writer()))


def test_text_is_written_up_to_a_stop_string():
  contexts = ['a b', 'c', 'd e f']
  settings = {'until': ['zzz'], 'max_gen_toks': 5}
  found = model().generate_until(asked(*[(each, settings) for each in contexts]))
  stop = next(text.split()[1] for text in found if len(text.split()) > 1)
  settings = {'until': f' {stop}', 'max_gen_toks': 5}
  cut = model().generate_until(asked(*[(each, settings) for each in contexts]))
  assert cut == [text.split(f' {stop}')[0] for text in found]
  assert cut != found


def test_what_is_missing_is_said_at_once(folder, monkeypatch):
  with pytest.raises(ValueError, match="found 'leters'; did you mean letters"):
    made(folder, 'leters')
  with pytest.raises(ValueError, match="folder of task files, found no '.*none'"):
    made(folder / 'none', 'letters')
  (folder / 'letters.jsonl').unlink()
  with pytest.raises(ValueError, match='expected the data of letters, found an error'):
    made(folder, 'letters')
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match='package lm_eval for tasks of lm-eval'):
    made(folder, 'letters')


def test_what_makes_no_sense():
  with pytest.raises(ValueError, match='expected tasks, shots >= -1 and limit >= 0'):
    made('', shots=0)
  assert extras.need('json', 'anything') is None
