"""A tokenizer's file that is broken, or meant to break: one line, never a hang."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
import tokenizers as library

from tests.support import small_tokenizers
from transfusion_jax.data.text import (
  hugging_face,
  sentence_pieces,
  tokenizer_config,
  tokenizer_patterns,
)

WORDS = {'model': {'type': 'WordLevel', 'vocab': {'a': 0, 'b': 1}, 'unk_token': 'b'}}


def load(stored: Any) -> hugging_face.HuggingFace:
  data = stored if isinstance(stored, bytes) else json.dumps(stored).encode()
  return hugging_face.HuggingFace(data, reserved=0, multiple=8)


def check_refused(stored: Any, message: str) -> None:
  with pytest.raises(ValueError, match=message) as error:
    load(stored)
  assert str(error.value).startswith('expected a tokenizer.json of Hugging Face')
  assert '\n' not in str(error.value)


def model(kind: str, **fields) -> dict[str, Any]:
  return {'model': {'type': kind, **fields}}


@pytest.mark.parametrize(
  'stored',
  [
    model('WordLevel', vocab={'a': 0}, unk_token='[UNK]'),
    model('Unigram', vocab=[['a', 0.0], ['b', -1.0]]),
    model(
      'WordPiece',
      vocab={'a': 0},
      unk_token='[UNK]',
      continuing_subword_prefix='##',
      max_input_chars_per_word=100,
    ),
  ],
  ids=lambda stored: stored['model']['type'],
)
def test_without_an_unknown_token(stored):
  tokenizer = load(stored)
  assert tokenizer.encode('a') == [0]
  with pytest.raises(ValueError, match=r"found 'z' \(.*; give the model .* unk_token"):
    tokenizer.encode('z')
  with pytest.raises(ValueError) as error:
    tokenizer.encode('z\n' * 1000)
  assert '\n' not in str(error.value)
  assert len(str(error.value)) < 500


def pattern(text: str, where: str = 'pre_tokenizer') -> dict[str, Any]:
  """A tokenizer that searches for a pattern."""
  split = {'type': 'Split', 'behavior': 'Isolated', 'invert': False}
  step = {
    'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': [split]},
    'normalizer': {'type': 'Replace', 'content': ' '},
    'decoder': {'type': 'Replace', 'content': ' '},
  }[where]
  (step['pretokenizers'][0] if where == 'pre_tokenizer' else step)['pattern'] = {
    'Regex': text
  }
  return WORDS | {where: step}


@pytest.mark.parametrize('where', ['pre_tokenizer', 'normalizer', 'decoder'])
@pytest.mark.parametrize(
  'text',
  [
    '(a+)+$',
    '(a|a)*$',
    '(q|qq)+$',
    '(xy|x|y)+$',
    r'(\w+\s?)+\d$',
    '^(([a-z])+.)+[A-Z]([a-z])+$',
    '(é|é)*$',
  ],
)
def test_a_pattern_that_goes_back_without_end(where, text):
  check_refused(pattern(text, where), 'the pattern .* cannot be searched for .*; write')


@pytest.mark.parametrize('text', ['(', '[a', 'a{2,1', '(?<n', '\\p{None}'])
def test_what_is_no_pattern(text):
  try:
    load(pattern(text))
  except ValueError as error:
    assert 'the pattern' in str(error)  # noqa: PT017, some engines take some of these


PUBLISHED = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+',
  r'[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+',
  r'\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))',
  r'\d{1,3}(?=(?:\d{3})*\b)',
  ' ',
)


@pytest.mark.parametrize('text', PUBLISHED)
def test_patterns_of_published_tokenizers(text):
  assert load(pattern(text)).encode('a') == [0]


def test_a_pattern_that_gets_through_is_an_error_of_the_text(monkeypatch):
  monkeypatch.setattr(tokenizer_patterns, 'check', lambda stored: None)
  tokenizer = load(pattern('(a+)+$'))
  with pytest.raises(ValueError, match=r"found 'a{40}\.\.\.' \(.*retry-limit"):
    tokenizer.encode('a' * 60 + '!')


def test_ctrl_c_is_not_taken_for_a_broken_file(monkeypatch):
  def stop(text):
    raise KeyboardInterrupt

  monkeypatch.setattr(library.Tokenizer, 'from_str', stop)
  with pytest.raises(KeyboardInterrupt):
    load(WORDS)


def added(*tokens: tuple[str, Any]) -> dict[str, Any]:
  flags = dict.fromkeys(
    ('single_word', 'lstrip', 'rstrip', 'normalized', 'special'), False
  )
  made = [{'id': index, 'content': content, **flags} for content, index in tokens]
  return WORDS | {'added_tokens': made}


@pytest.mark.parametrize(
  ('stored', 'message'),
  [
    (model('WordLevel', vocab={'a': 2**32 - 1}, unk_token='a'), 'the id 4294967295 of'),
    (model('WordLevel', vocab={'a': 2**64}, unk_token='a'), 'the id 18446744073709551'),
    (model('WordLevel', vocab={'a': -1}, unk_token='a'), 'the id -1 of'),
    (model('WordLevel', vocab={'a': True}, unk_token='a'), 'no whole number'),
    (model('WordLevel', vocab={'a': 0.0}, unk_token='a'), 'no whole number'),
    (
      model('WordLevel', vocab={'a': 0, 'b': 0}, unk_token='a'),
      "the id 0 for both 'a' and 'b'",
    ),
    (model('WordLevel', vocab={}, unk_token='a'), 'without a model and its vocabulary'),
    (model('Unigram', vocab=[]), 'without a model and its vocabulary'),
    (added(('x', 2**32 - 1)), "the id 4294967295 of 'x' among 3 entries"),
    (added(('x', 5), ('y', 5)), "the id 5 for both 'x' and 'y'"),
    (added(('x', 0)), "the id 0 for both 'a' and 'x'"),
    (added(('x', None)), 'no whole number'),
    (WORDS | {'added_tokens': 3}, 'not iterable'),
    (WORDS | {'added_tokens': [{'id': 5}]}, "KeyError 'content'"),
    (WORDS | {'normalizer': {'type': 'Never'}}, 'did not match'),
    (b'\xff\xfea', 'UTF-8'),
    (b'[]', 'expected a JSON object, found a list'),
    (b'5', 'expected a JSON object, found a number'),
    (b'{"model": {"vocab": ' + b'[' * 300 + b']' * 300 + b'}}', 'at most 64 lists'),
  ],
)
def test_broken_files(stored, message):
  check_refused(stored, message)


def test_ids_with_gaps_and_tokens_listed_twice_are_taken():
  words = model('WordLevel', vocab={'a': 0, 'b': 900}, unk_token='b')
  assert load(words).base_size == 901
  assert load(added(('a', 0), ('x', 2), ('x', 2))).base_size == 3
  assert load(b'\xef\xbb\xbf' + json.dumps(WORDS).encode()).encode('b') == [1]


@pytest.mark.parametrize(
  ('kind', 'data', 'message'),
  [
    ('hugging_face', small_tokenizers.trained(), "set kind='sentencepiece'"),
    ('sentencepiece', json.dumps(WORDS).encode(), "set kind='hugging_face'"),
  ],
)
def test_a_file_of_the_other_kind(tmp_path, kind, data, message):
  path = tmp_path / 'file'
  path.write_bytes(data)
  made = tokenizer_config.TokenizerConfig(kind, str(path), reserved=0, multiple=8)
  with pytest.raises(ValueError, match=message) as error:
    tokenizer_config.make(made, ())
  assert '\n' not in str(error.value)


ODD = (None, True, -1, 0, 5, 2**32 - 1, 2**64, 1e308, float('nan'), '', 'x', '\0', '[')
ODD += ([], {}, [1], {'a': 1}, [[]], '(a+)+$')


def places(value: Any, place: tuple = ()) -> Iterator[tuple]:
  """Where something stands in JSON; of long lists the beginning."""
  yield place
  inner = value.items() if isinstance(value, dict) else ()
  inner = enumerate(value) if isinstance(value, list) else inner
  for _, (key, each) in zip(range(30), inner, strict=False):
    yield from places(each, (*place, key))


def changed(stored: dict[str, Any], source: random.Random) -> bytes:
  """A file with something else in a place, or cut, or with flipped bits."""
  stored = copy.deepcopy(stored)
  way = source.random()
  if way < 0.7:
    *place, last = source.choice([each for each in places(stored) if each])
    inside = stored
    for key in place:
      inside = inside[key]
    inside[last] = source.choice(ODD)
    return json.dumps(stored).encode()
  data = bytearray(json.dumps(stored).encode())
  if way < 0.85:
    return bytes(data[: source.randrange(len(data))])
  for _ in range(source.choice([1, 1, 5])):
    data[source.randrange(len(data))] ^= 1 << source.randrange(8)
  return bytes(data)


@pytest.mark.parametrize(
  'make',
  [small_tokenizers.byte_level, small_tokenizers.llama_like, small_tokenizers.greedy],
)
def test_anything_done_to_a_file_is_one_line(make):
  stored, source = json.loads(make().to_str()), random.Random(0)
  outcomes = set()
  for _ in range(250):
    try:
      tokenizer = load(changed(stored, source))
      for text in ('a red', '漢 \U0010ffff', 'a' * 40 + '!', ''):
        tokenizer.decode(tokenizer.encode(text))
      outcomes.add('loaded')
    except ValueError as error:
      long = '\n' in str(error) or len(str(error)) > 600
      outcomes.add(str(error) if long else 'refused')
  assert outcomes == {'loaded', 'refused'}


def test_anything_done_to_a_model_is_one_line():
  data, source = (
    small_tokenizers.trained(byte_fallback=True, vocab_size=300),
    random.Random(0),
  )
  outcomes = set()
  for number in range(300):
    other = bytearray(data)
    other[source.randrange(len(data))] ^= 1 << source.randrange(8)
    other = bytes(other if number % 3 else data[: source.randrange(len(data))])
    try:
      model = sentence_pieces.SentencePiece(other, reserved=0, multiple=8)
      model.decode(model.encode('a 漢'))
      outcomes.add('loaded')
    except ValueError as error:
      outcomes.add('refused' if '\n' not in str(error) else str(error))
  assert outcomes == {'loaded', 'refused'}
