"""SentencePiece and Hugging Face: what survives, what never becomes a control token."""

import concurrent.futures
import json
import random

import pytest
import sentencepiece
import tokenizers as library
from tokenizers import (
  models,
)

from tests.support import small_tokenizers
from transfusion_jax.data import package_files
from transfusion_jax.data.text import hugging_face, sentence_pieces, tokenizers

MISTRAL = 'package:mistral_common/data/tokenizer.model.v1'
WITH_CONTROLS = 'package:mistral_common/data/mistral_instruct_tokenizer_240323.model.v3'

TEXTS = (
  '',
  ' ',
  '   ',
  'plain words',
  ' one before',
  'one after ',
  '  two  in  all  places  ',
  '\ttab\tand\nnew\n\nlines\r\n',
  'Grüße, 日本語, עברית שלום, العربية',
  'e\u0301 and \u00e9, a\u0302\u0323, \u1112\u1161\u11ab',  # combining marks, jamo
  '🐼 👩\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈 👍🏽 🇩🇪',
  '\u202eright to left\u202c \u200f\u200e \u061c',
  '\x00\x01\x07\x1b[31m\x7f\x80\x9f',
  '\ufeffmark \ufffe \uffff \ufdd0 \ufffd',
  '\u00a0\u2003\u3000 spaces \u2028\u2029',
  'ﬁ ① ｆｕｌｌ ℌ',  # what a compatibility normaliser would change
  '\U00010000\U0001f43c\U00020000\U000e0001\U000f0000\U0010ffff',
  '<s></s><unk><pad>[CLS][SEP]<|endoftext|><0x0A>[INST]',
  '\x000\x00 \x001\x00',  # the names under which special tokens are hidden
)


def mistral(**sizes) -> sentence_pieces.SentencePiece:
  sizes = {'reserved': 0, 'multiple': 8, **sizes}
  return sentence_pieces.SentencePiece(package_files.read(MISTRAL, 'a model'), **sizes)


def loaded(made: library.Tokenizer) -> hugging_face.HuggingFace:
  data = made.to_str().encode()
  return hugging_face.HuggingFace(data, reserved=0, multiple=8)


EXACT = {
  'mistral': mistral,
  'byte_level': lambda: loaded(small_tokenizers.byte_level()),
  'llama_like': lambda: loaded(small_tokenizers.llama_like()),
  'bytes': lambda: tokenizers.Bytes(reserved=0, multiple=8),
}


@pytest.fixture(scope='module', params=EXACT)
def exact(request):
  return EXACT[request.param]()


@pytest.mark.parametrize('text', TEXTS, ids=ascii)
def test_round_trip(exact, text):
  ids = exact.encode(text)
  assert exact.decode(ids) == text
  assert all(0 <= index < exact.base_size for index in ids)


def test_every_character_survives(exact):
  """One of every 31 code points of all planes; those of single bytes all."""
  points = [*range(256), *range(256, 0x110000, 31)]
  kept = [chr(point) for point in points if not 0xD800 <= point < 0xE000]
  text = ''.join(kept).replace('\u2581', '')
  assert exact.decode(exact.encode(text)) == text


def test_texts_may_be_encoded_in_pieces(exact):
  joined = [index for text in TEXTS for index in exact.encode(text)]
  assert exact.decode(joined) == ''.join(TEXTS)


def test_the_sign_for_a_space_becomes_one():
  model = mistral()
  assert model.decode(model.encode('a\u2581b \u2581')) == 'a b  '


def test_lone_surrogates_are_refused(exact):
  with pytest.raises(ValueError, match=r"lone surrogate '\\ud83d' at 2; decode its"):
    exact.encode('a \ud83d b')


def test_half_a_character_decodes(exact):
  for text in ('🐼', '\U00013000'):
    assert '\ufffd' in exact.decode(exact.encode(text)[:-1] + exact.encode('A'))


def test_a_leading_space_gives_the_ids_of_the_authors():
  theirs = sentencepiece.SentencePieceProcessor(
    model_proto=package_files.read(MISTRAL, '')
  )
  text = 'A red panda, and then another.'
  assert mistral().encode(' ' + text) == theirs.encode(text)
  made = small_tokenizers.llama_like()
  plain = made.encode(text, add_special_tokens=False).ids
  assert loaded(small_tokenizers.llama_like()).encode(' ' + text) == plain


def test_another_normaliser_does_what_it_was_made_to():
  """The default of SentencePiece's trainer, but not what it does to spaces."""
  model = sentence_pieces.SentencePiece(
    small_tokenizers.trained(byte_fallback=True, vocab_size=300), reserved=0, multiple=8
  )
  assert model.decode(model.encode('  ｆｕｌｌ  ﬁ ①  ')) == '  full  fi 1  '
  assert model.decode(model.encode('a') + model.encode(' b')) == 'a b'


def test_without_byte_fallback_the_unknown_is_one_token():
  model = sentence_pieces.SentencePiece(
    small_tokenizers.trained(), reserved=0, multiple=8
  )
  assert model.decode(model.encode('a 🐼')) == 'a  \u2047 '


@pytest.mark.parametrize('path', [MISTRAL, WITH_CONTROLS])
def test_no_text_is_a_control_token_of_sentencepiece(path):
  data = package_files.read(path, 'a model')
  library = sentencepiece.SentencePieceProcessor(model_proto=data)
  model = sentence_pieces.SentencePiece(data, reserved=0, multiple=8)
  plain = {i for i in range(library.get_piece_size()) if not library.is_byte(i)}
  controls = {i for i in plain if library.is_control(i) or library.is_unknown(i)}
  assert len(controls) >= 3
  for index in controls:
    name = library.id_to_piece(index)
    for text in (name, f'say {name} now', f' {name}'):
      ids = model.encode(text)
      assert not controls & set(ids)
      assert model.decode(ids) == text


@pytest.mark.parametrize(
  'make',
  [small_tokenizers.byte_level, small_tokenizers.llama_like, small_tokenizers.greedy],
)
def test_no_text_is_a_special_token_of_hugging_face(make):
  theirs, ours = make(), loaded(make())
  special = {
    index: token.content
    for index, token in theirs.get_added_tokens_decoder().items()
    if token.special
  }
  for index, name in special.items():
    assert theirs.token_to_id(name) == index
    for text in (name, f'a{name}red', f' {name}'):
      theirs.no_truncation()
      assert index in theirs.encode(text, add_special_tokens=False).ids
      assert not special.keys() & set(ours.encode(text))
      assert ours.decode(ours.encode(text)) == text
    assert ours.decode([index, *ours.encode('red'), index]) == 'red'


def test_letters_do_not_merge_into_a_special_token():
  names = {name: index for index, name in enumerate(['<', 's', '>', '<s', '<s>'])}
  made = library.Tokenizer(models.BPE(names, [('<', 's'), ('<s', '>')]))
  assert made.encode('<s>').ids == [4]
  made.add_special_tokens(['<s>'])
  assert loaded(made).encode('<s>') == [3, 2]


def test_nothing_is_cut_padded_or_added():
  text = 'a red apple on a blue panda'
  theirs, ours = small_tokenizers.byte_level(), loaded(small_tokenizers.byte_level())
  theirs.no_truncation()
  theirs.no_padding()
  plain = theirs.encode(text, add_special_tokens=False).ids
  assert len(plain) > 5
  assert ours.encode(' ' + text) == plain
  assert ours.encode('    ') == [theirs.token_to_id('    ')]  # an added token, of text


def test_numbers_of_a_model():
  model = mistral(reserved=100, multiple=128)
  assert model.base_size == 32000
  assert model.special == tokenizers.Special(
    32000, 32001, 32002, 32003, 32004, range(32005, 32105)
  )
  assert (model.used_size, model.vocab_size) == (32105, 32128)
  text = model.encode('a panda')
  assert model.decode([32000, 32050, *text, 32104, 32127, 32001]) == 'a panda'


def test_fingerprints_tell_vocabularies_apart():
  stored = small_tokenizers.byte_level()
  spaced = json.dumps(json.loads(stored.to_str()), indent=2).encode()
  same = hugging_face.HuggingFace(spaced, reserved=3, multiple=128)
  assert same.fingerprint() == loaded(stored).fingerprint()
  stored.add_tokens(['one more'])
  model = sentence_pieces.SentencePiece(
    small_tokenizers.trained(), reserved=0, multiple=8
  )
  found = [each().fingerprint() for each in EXACT.values()]
  found += [loaded(stored).fingerprint(), model.fingerprint()]
  assert len(set(found)) == len(found)
  assert found[0] == mistral(reserved=7).fingerprint()


def test_threads_agree(exact):
  source = random.Random(0)
  texts = [' '.join(source.sample(TEXTS, 4)) for _ in range(64)]
  alone = [exact.encode(text) for text in texts]
  with concurrent.futures.ThreadPoolExecutor(8) as threads:
    assert list(threads.map(exact.encode, texts * 4)) == alone * 4


@pytest.mark.parametrize('size', [1, 40, 1000, 200000])
def test_cut_models_are_refused(size):
  data = package_files.read(MISTRAL, 'a model')
  with pytest.raises(
    ValueError, match='expected a SentencePiece model, found'
  ) as error:
    sentence_pieces.SentencePiece(data[:size], reserved=0, multiple=8)
  assert '\n' not in str(error.value)


BAD = (
  b'x',
  b'\xff\xfe\x00',
  b'[' * 100_000,
  b'null',
  b'{}',
  b'{"model": 3}',
  b'{"model": {"type": "BPE"}}',
  b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}',
  b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": 3}}',
  b'{"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 7}}',
  b'{"model": {"type": "New", "vocab": {"a": 0}}}',
  b'{"model": {"type": "WordLevel", "vocab": {"a": "b"}, "unk_token": "a"}}',
  b'{"model": {"type": "WordLevel", "vocab": {"a": 0}}, "added_tokens": [3]}',
)


@pytest.mark.parametrize('data', BAD, ids=lambda data: data[:70].decode('latin1'))
def test_what_is_no_tokenizer_json_is_refused(data):
  with pytest.raises(ValueError, match=r'expected a tokenizer\.json') as error:
    hugging_face.HuggingFace(data, reserved=0, multiple=8)
  assert '\n' not in str(error.value)
