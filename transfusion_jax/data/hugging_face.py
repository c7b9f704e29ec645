"""Tokenizers stored as a `tokenizer.json` of Hugging Face."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import tokenizers as library

from transfusion_jax.data import tokenizers


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
      ValueError: the text holds half a character; see `tokenizers.utf8`.
    """
    tokenizers.utf8(text)
    return self._tokenizer.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Iterable[int | np.integer]) -> str:
    """Text of the ids; bytes that are no UTF-8 become U+FFFD."""
    return self._tokenizer.decode(self._base(ids))


def _parse(data: bytes) -> dict[str, Any]:
  try:
    stored = json.loads(data)
  except (ValueError, RecursionError) as error:
    raise _refusal(data, 'no JSON') from error
  model = stored.get('model') if isinstance(stored, dict) else None
  if not isinstance(model, dict) or not model.get('vocab'):
    raise _refusal(data, 'JSON without a model and its vocabulary')
  return stored


def _load(stored: dict[str, Any]) -> library.Tokenizer:
  try:
    return library.Tokenizer.from_str(json.dumps(_text_alone(stored)))
  except Exception as error:  # the library raises nothing narrower
    raise _refusal(json.dumps(stored), f'{type(error).__name__}: {error}') from error


def _refusal(data: bytes | str, reason: str) -> ValueError:
  return ValueError(
    f'expected a tokenizer.json of Hugging Face, found {len(data)} bytes: {reason}; '
    'save one with Tokenizer.save, or set another kind'
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
