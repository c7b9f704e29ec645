"""Tokenizers: round trips, numbering, and messages."""

import pytest

from transfusion_jax.data import tokenizers

WORDS = ('a', 'apple', 'blue', 'on', 'panda', 'red')


def words() -> tokenizers.Words:
  return tokenizers.Words(WORDS, multiple=8)


@pytest.mark.parametrize('text', ['', 'a red apple', 'panda on blue'])
def test_words_round_trip(text):
  assert words().decode(words().encode(text)) == text


@pytest.mark.parametrize(
  'text', ['', 'plain', 'Grüße, 日本語 🐼', 'tab\tnew\nline', '\u202e\x00']
)
def test_bytes_round_trip(text):
  tokenizer = tokenizers.Bytes(multiple=8)
  assert tokenizer.decode(tokenizer.encode(text)) == text


def test_words_ignores_case_and_space():
  assert words().encode('  A  Red\nPANDA ') == words().encode('a red panda')


@pytest.mark.parametrize('make', [words, lambda: tokenizers.Bytes(multiple=128)])
def test_special_ids_follow_the_base_vocabulary(make):
  tokenizer = make()
  special = tokenizer.special
  ids = [special.bos, special.eos, special.boi, special.eoi, special.pad]
  assert sorted(ids) == list(range(tokenizer.base_size, tokenizer.used_size))
  assert tokenizer.used_size <= tokenizer.vocab_size
  assert tokenizer.vocab_size % 8 == 0
  assert tokenizer.vocab_size - tokenizer.used_size < 128


def test_decoding_leaves_out_special_and_padding_ids():
  tokenizer = words()
  ids = [tokenizer.special.bos, 1, tokenizer.special.eos, tokenizer.vocab_size - 1]
  assert tokenizer.decode(ids) == 'apple'


def test_broken_bytes_decode():
  assert tokenizers.Bytes(multiple=8).decode([0xF0, 0x9F, 65]) == '\ufffdA'


def test_unknown_word_names_the_word_and_the_nearest():
  with pytest.raises(ValueError, match=r"found 'pandas'.*'panda'"):
    words().encode('a pandas')
  with pytest.raises(ValueError, match=r"found 'xyzzy'.*use words such as 'a'"):
    words().encode('xyzzy')


@pytest.mark.parametrize('bad', [('a', 'a'), ('two words',), ('Upper',), ('',)])
def test_bad_vocabularies(bad):
  with pytest.raises(ValueError, match='expected'):
    tokenizers.Words(bad, multiple=8)


def test_bad_multiple():
  with pytest.raises(ValueError, match='multiple of at least 1, found 0'):
    tokenizers.Bytes(multiple=0)
