"""Tokenizers: round trips, numbering, and messages."""

import pytest

from transfusion_jax.data.text import tokenizers

WORDS = ('a', 'apple', 'blue', 'on', 'panda', 'red')


def words() -> tokenizers.Words:
  return tokenizers.Words(WORDS, reserved=0, multiple=8)


@pytest.mark.parametrize('text', ['', 'a red apple', 'panda on blue'])
def test_words_round_trip(text):
  assert words().decode(words().encode(text)) == text


@pytest.mark.parametrize(
  'text', ['', 'plain', 'Grüße, 日本語 🐼', 'tab\tnew\nline', '\u202e\x00']
)
def test_bytes_round_trip(text):
  tokenizer = tokenizers.Bytes(reserved=0, multiple=8)
  assert tokenizer.decode(tokenizer.encode(text)) == text


def test_words_ignores_case_and_space():
  assert words().encode('  A  Red\nPANDA ') == words().encode('a red panda')


@pytest.mark.parametrize(
  'make', [words, lambda: tokenizers.Bytes(reserved=0, multiple=128)]
)
def test_special_ids_follow_the_base_vocabulary(make):
  tokenizer = make()
  special = tokenizer.special
  ids = [special.bos, special.eos, special.boi, special.eoi, special.pad]
  ids += special.reserved
  assert ids == list(range(tokenizer.base_size, tokenizer.used_size))
  assert tokenizer.used_size <= tokenizer.vocab_size
  assert tokenizer.vocab_size % 8 == 0
  assert tokenizer.vocab_size - tokenizer.used_size < 128


def test_decoding_leaves_out_special_and_padding_ids():
  tokenizer = words()
  ids = [tokenizer.special.bos, 1, tokenizer.special.eos, tokenizer.vocab_size - 1]
  assert tokenizer.decode(ids) == 'apple'


def test_broken_bytes_decode():
  assert tokenizers.Bytes(reserved=0, multiple=8).decode([0xF0, 0x9F, 65]) == '\ufffdA'


def test_unknown_word_names_the_word_and_the_nearest():
  with pytest.raises(ValueError, match=r"found 'pandas'.*'panda'"):
    words().encode('a pandas')
  with pytest.raises(ValueError, match=r"found 'xyzzy'.*use words such as 'a'"):
    words().encode('xyzzy')


@pytest.mark.parametrize('bad', [('a', 'a'), ('two words',), ('Upper',), ('',)])
def test_bad_vocabularies(bad):
  with pytest.raises(ValueError, match='expected'):
    tokenizers.Words(bad, reserved=0, multiple=8)


def test_reserved_ids_move_no_others():
  few, many = (tokenizers.Bytes(reserved=n, multiple=64) for n in (0, 100))
  assert many.special.reserved == range(261, 361)
  assert (few.special.bos, few.special.pad) == (many.special.bos, many.special.pad)
  assert (few.vocab_size, many.used_size, many.vocab_size) == (320, 361, 384)
  assert many.decode([*b'a', *many.special.reserved, *b'b']) == 'ab'


def test_fingerprints_are_of_the_words_and_their_order():
  one, other = (
    tokenizers.Words(w, reserved=0, multiple=8) for w in (WORDS, WORDS[::-1])
  )
  assert one.fingerprint() != other.fingerprint()
  assert one.fingerprint() == words().fingerprint()
  assert len(one.fingerprint()) == 16


def test_bad_numbers():
  with pytest.raises(ValueError, match='multiple of at least 1, found 0'):
    tokenizers.Bytes(reserved=0, multiple=0)
  with pytest.raises(ValueError, match='reserved >= 0, found -1'):
    tokenizers.Bytes(reserved=-1, multiple=8)


def test_a_question_mark_is_a_word_of_its_own():
  asking = tokenizers.Words(('?', 'panda', 'where'), reserved=0, multiple=8)
  assert asking.encode('where panda?') == [2, 1, 0]
  assert asking.decode([2, 1, 0]) == 'where panda?'
  with pytest.raises(ValueError, match=r"found '\?'"):
    words().encode('panda?')
