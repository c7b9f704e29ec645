"""Text to token ids and back.

Ids of a tokenizer, in order: its base vocabulary, the five special tokens, and padding
rows up to a multiple chosen by the config, so that the embedding can be sharded. The
padding rows are never produced; mask the logits from `used_size` on.
"""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Special:
  """Ids of the special tokens: document and image boundaries, and filler."""

  bos: int
  eos: int
  boi: int
  eoi: int
  pad: int

  @classmethod
  def after(cls, base_size: int) -> 'Special':
    """The ids that follow a base vocabulary of `base_size` tokens."""
    return cls(*range(base_size, base_size + 5))


@runtime_checkable
class Tokenizer(Protocol):
  """What the layout, the model and the samplers know of a tokenizer."""

  special: Special
  base_size: int  # ids below it stand for text
  used_size: int  # ids below it mean something: base vocabulary and special tokens
  vocab_size: int  # rows of the embedding: used_size rounded up

  def encode(self, text: str) -> list[int]:
    """Ids of a text, without special tokens."""
    ...

  def decode(self, ids: Iterable[int | np.integer]) -> str:
    """Text of the ids; special and padding ids are left out."""
    ...


class Words:
  """Whole words of a fixed vocabulary, split at white space, in lower case."""

  def __init__(self, words: tuple[str, ...], *, multiple: int):
    """Numbers the words in the order given.

    Raises:
      ValueError: a word is repeated, holds white space or is not in lower case.
    """
    for word in words:
      if word.split() != [word] or word != word.lower():
        raise ValueError(
          f'expected lower-case words without white space, found {word!r}; '
          'split and lower-case the vocabulary first'
        )
    self._ids = {word: index for index, word in enumerate(words)}
    if len(self._ids) != len(words):
      repeated = sorted(word for word in self._ids if words.count(word) > 1)
      raise ValueError(
        f'expected each word once, found repeated {repeated}; remove the repetitions'
      )
    self._words = words
    self.base_size = len(words)
    self.special = Special.after(self.base_size)
    self.used_size = self.base_size + 5
    self.vocab_size = round_up(self.used_size, multiple)

  def encode(self, text: str) -> list[int]:
    """Ids of the words of `text`.

    Raises:
      ValueError: a word is not in the vocabulary; the message names the nearest ones.
    """
    return [self._encode_word(word) for word in text.lower().split()]

  def decode(self, ids: Iterable[int | np.integer]) -> str:
    return ' '.join(self._words[index] for index in ids if index < self.base_size)

  def _encode_word(self, word: str) -> int:
    if word in self._ids:
      return self._ids[word]
    nearest = difflib.get_close_matches(word, self._words, n=3, cutoff=0.5)
    advice = (
      f'did you mean {" or ".join(map(repr, nearest))}?'
      if nearest
      else (f'use words such as {", ".join(map(repr, self._words[:8]))}')
    )
    raise ValueError(
      f'expected words of the vocabulary ({self.base_size} words), found {word!r}; '
      f'{advice}'
    )


class Bytes:
  """The bytes of the UTF-8 text: any text, nothing to learn, four times as long."""

  def __init__(self, *, multiple: int):
    self.base_size = 256
    self.special = Special.after(self.base_size)
    self.used_size = self.base_size + 5
    self.vocab_size = round_up(self.used_size, multiple)

  def encode(self, text: str) -> list[int]:
    return list(text.encode('utf-8'))

  def decode(self, ids: Iterable[int | np.integer]) -> str:
    """Text of the ids; bytes that are no UTF-8 become U+FFFD."""
    kept = bytes(int(index) for index in ids if index < self.base_size)
    return kept.decode('utf-8', errors='replace')


def round_up(size: int, multiple: int) -> int:
  """The smallest multiple of `multiple` that holds `size`."""
  if multiple < 1:
    raise ValueError(
      f'expected a multiple of at least 1, found {multiple}; use 8 or 128'
    )
  return -(-size // multiple) * multiple
