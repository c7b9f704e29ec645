"""Text to token ids and back.

Ids of a tokenizer, in order: its base vocabulary, the five special tokens, the reserved
ids, and padding rows up to a multiple chosen by the config, so that the embedding can
be sharded. No text is ever encoded into an id outside the base vocabulary, whatever it
says. The padding rows are never produced; mask the logits from `used_size` on.
"""

import dataclasses
import difflib
import hashlib
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Special:
  """Ids that stand for no text.

  Document and image boundaries, filler, and `reserved`: ids without a meaning yet, say
  for the codes of pictures or for masks.
  """

  bos: int
  eos: int
  boi: int
  eoi: int
  pad: int
  reserved: range

  @classmethod
  def after(cls, base_size: int, reserved: int) -> 'Special':
    """The ids that follow a base vocabulary; more reserved ones move none of them."""
    first = base_size + 5
    return cls(*range(base_size, first), reserved=range(first, first + reserved))


@runtime_checkable
class Tokenizer(Protocol):
  """Interface of a tokenizer for the layout, the model and the samplers."""

  special: Special
  base_size: int  # ids below it stand for text
  used_size: int  # ids below it mean something: base vocabulary, special and reserved
  vocab_size: int  # rows of the embedding: used_size rounded up

  def encode(self, text: str) -> list[int]:
    """Ids of a text, all below `base_size`: no special tokens, no added space."""
    ...

  def decode(self, ids: Iterable[int | np.integer]) -> str:
    """Text of the ids; special, reserved and padding ids are left out."""
    ...

  def fingerprint(self) -> str:
    """A short digest of the vocabulary: another one, other ids for the same text."""
    ...


class Numbered:
  """Numbers the ids after a base vocabulary, the same way for all tokenizers."""

  def __init__(self, base_size: int, content: bytes, *, reserved: int, multiple: int):
    """Numbers the ids.

    Args:
      base_size: of the base vocabulary.
      content: all that makes the vocabulary what it is, for the fingerprint.
      reserved: number of reserved ids.
      multiple: of which the size is to be.

    Raises:
      ValueError: a number is too small.
    """
    if reserved < 0:
      raise ValueError(f'expected reserved >= 0, found {reserved}; use 0 for none')
    if multiple < 1:
      raise ValueError(
        f'expected a multiple of at least 1, found {multiple}; use 8 or 128'
      )
    self.base_size = base_size
    self.special = Special.after(base_size, reserved)
    self.used_size = self.special.reserved.stop
    self.vocab_size = -(-self.used_size // multiple) * multiple
    self._digest = hashlib.sha256(content).hexdigest()[:16]

  def fingerprint(self) -> str:
    return self._digest

  def _base(self, ids: Iterable[int | np.integer]) -> list[int]:
    return [int(index) for index in ids if index < self.base_size]


class Words(Numbered):
  """Whole words of a fixed vocabulary, split at white space, in lower case.

  A question mark is a word of its own, and stands behind another without a space.
  """

  def __init__(self, words: tuple[str, ...], *, reserved: int, multiple: int):
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
    content = utf8(' '.join(words))
    super().__init__(len(words), content, reserved=reserved, multiple=multiple)

  def encode(self, text: str) -> list[int]:
    """Ids of the words of `text`.

    Raises:
      ValueError: a word is not in the vocabulary; the message names the nearest ones.
    """
    words = text.lower().replace('?', ' ? ').split()
    return [self._encode_word(word) for word in words]

  def decode(self, ids: Iterable[int | np.integer]) -> str:
    words = ' '.join(self._words[index] for index in self._base(ids))
    return words.replace(' ?', '?')

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


class Bytes(Numbered):
  """The bytes of the UTF-8 text: any text, nothing to learn, four times as long."""

  def __init__(self, *, reserved: int, multiple: int):
    super().__init__(256, b'bytes', reserved=reserved, multiple=multiple)

  def encode(self, text: str) -> list[int]:
    """The bytes.

    Raises:
      ValueError: the text holds half a character; see `utf8`.
    """
    return list(utf8(text))

  def decode(self, ids: Iterable[int | np.integer]) -> str:
    """Text of the ids; bytes that are no UTF-8 become U+FFFD."""
    return bytes(self._base(ids)).decode('utf-8', errors='replace')


def utf8(text: str) -> bytes:
  """The UTF-8 of a text.

  Raises:
    ValueError: a lone surrogate, half a character, stands in it.
  """
  try:
    return text.encode('utf-8')
  except UnicodeEncodeError as error:
    raise ValueError(
      f'expected text of whole characters, found a lone surrogate '
      f"{text[error.start]!a} at {error.start}; decode its source with errors='replace'"
    ) from error
