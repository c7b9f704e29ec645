"""Tokenizers stored as a `tokenizer.json` of Hugging Face."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tokenizers as library

from transfusion_jax.core import json_text
from transfusion_jax.data.text import tokenizer_patterns, tokenizers

SPARSE, SPARE = 4, 1000
"""Ids for every entry of a vocabulary, and beyond them, that are believed of a file."""


class HuggingFace(tokenizers.Numbered):
  """A `tokenizer.json`, reduced to text in, ids out.

  What the file adds to a text is taken out before it is loaded: spaces in front, tokens
  of a template, truncation, padding. So, unless the file's own normaliser changes
  letters, `decode(encode(a) + encode(b)) == a + b`, as for a byte-level BPE.

  Tokens that the file calls special keep their ids but are never encoded: `<s>` in a
  text is three letters. Added tokens that it does not call special are text.
  """

  def __init__(self, data: bytes, *, reserved: int, multiple: int):
    """Loads the content of a `tokenizer.json`.

    Raises:
      ValueError: it is none.
    """
    stored = _parse(data)
    # One text at a time, never a batch: the library's own threads and forks differ.
    self._tokenizer = _load(stored)
    self._tokenizer.encode_special_tokens = True
    size = 1 + max(self._tokenizer.get_vocab().values(), default=-1)
    content = tokenizers.utf8(json.dumps(stored, sort_keys=True))
    super().__init__(size, content, reserved=reserved, multiple=multiple)

  def encode(self, text: str) -> list[int]:
    """Ids of a text.

    Raises:
      ValueError: the text holds half a character (see `tokenizers.utf8`), or something
        that the tokenizer has no id for.
    """
    tokenizers.utf8(text)
    try:
      return self._tokenizer.encode(text, add_special_tokens=False).ids
    except BaseException as error:
      tokenizer_patterns.check_ours(error)
      shown = text if len(text) <= 40 else f'{text[:40]}...'
      raise ValueError(
        f'expected a text that the tokenizer has ids for, found {shown!r} '
        f'({tokenizer_patterns.told(error)}); give the model of the tokenizer.json an '
        'unk_token that is in its vocabulary, or leave the text out'
      ) from error

  def decode(self, ids: Iterable[int | np.integer]) -> str:
    """Text of the ids; bytes that are no UTF-8 become U+FFFD."""
    return self._tokenizer.decode(self._base(ids))


def _parse(data: bytes) -> dict[str, Any]:
  try:
    stored = json_text.parse_object(data)
  except ValueError as error:
    raise _refusal(data, str(error)) from error
  model = stored.get('model')
  if not isinstance(model, dict) or not model.get('vocab'):
    raise _refusal(data, 'JSON without a model and its vocabulary')
  return stored


def _load(stored: dict[str, Any]) -> library.Tokenizer:
  try:
    ids = list(_ids(stored))
    if not all(type(index) is int for _, index in ids):
      raise ValueError('an id that is no whole number')
    _check_ids(ids)
    tokenizer_patterns.check(stored)
    return library.Tokenizer.from_str(json.dumps(_text_alone(stored)))
  # The library raises nothing narrower, and a file may hold anything.
  except BaseException as error:
    tokenizer_patterns.check_ours(error)
    raise _refusal(json.dumps(stored), tokenizer_patterns.told(error)) from error


def _refusal(data: bytes | str, reason: str) -> ValueError:
  return ValueError(
    f'expected a tokenizer.json of Hugging Face, found {len(data)} bytes: {reason}; '
    "save one with Tokenizer.save, or set kind='sentencepiece' for a .model file"
  )


def _ids(stored: dict[str, Any]) -> Iterator[tuple[str, Any]]:
  """Every token with its id; those of a model's list count from 0."""
  vocab = stored['model']['vocab']
  if isinstance(vocab, dict):
    yield from vocab.items()
  else:
    yield from ((each[0], number) for number, each in enumerate(vocab))
  for each in stored.get('added_tokens') or []:
    yield each['content'], each['id']


def _check_ids(ids: list[tuple[str, int]]) -> None:
  """Checks that no id stands for two tokens, and that none is absurd."""
  owners: dict[int, str] = {}
  most = SPARSE * len(ids) + SPARE
  for token, index in ids:
    if not 0 <= index < most:
      raise ValueError(
        f'the id {index} of {token[:40]!r} among {len(ids)} entries, of at most {most}'
      )
    if owners.setdefault(index, token) != token:
      raise ValueError(
        f'the id {index} for both {owners[index][:40]!r} and {token[:40]!r}'
      )


def _text_alone(stored: dict[str, Any]) -> dict[str, Any]:
  """The tokenizer that knows no special tokens by name and adds nothing to a text.

  Names are changed rather than removed, since ids follow from places. A vocabulary that
  is searched for whole words or pieces would find the old names in a text.
  """
  added = stored.get('added_tokens') or []
  names = {
    each['content']: f'\0{each["id"]}\0' for each in added if each.get('special')
  }
  rename = lambda name: names.get(name, name)  # noqa: E731
  model = dict(stored['model'])
  if isinstance(model['vocab'], dict):
    model['vocab'] = {rename(name): index for name, index in model['vocab'].items()}
  else:
    model['vocab'] = [[rename(name), score] for name, score in model['vocab']]
  if 'merges' in model:
    pairs = [
      each.split(' ') if isinstance(each, str) else each for each in model['merges']
    ]
    model['merges'] = [each for each in pairs if ''.join(each) not in names]
  if 'unk_token' in model:
    model['unk_token'] = rename(model['unk_token'])
  parts = ('normalizer', 'pre_tokenizer', 'decoder')
  return {
    **stored,
    'model': model,
    'added_tokens': [{**each, 'content': rename(each['content'])} for each in added],
    **{part: _without_prefix(stored.get(part)) for part in parts},
    **dict.fromkeys(('post_processor', 'truncation', 'padding')),
  }


def _without_prefix(part: Any) -> Any:
  """A step of the file, and those inside it, without the space put before a text."""
  if isinstance(part, list):
    kept = [_without_prefix(each) for each in part]
    return [each for each in kept if each is not None]
  if not isinstance(part, dict):
    return part
  kind = part.get('type')
  if kind == 'Prepend' or (kind == 'Strip' and 'start' in part):  # and a decoder's end
    return None
  part = {name: _without_prefix(value) for name, value in part.items()}
  if 'add_prefix_space' in part:
    part['add_prefix_space'] = False
  if kind == 'Metaspace':
    part['prepend_scheme'] = 'never'
  return part
