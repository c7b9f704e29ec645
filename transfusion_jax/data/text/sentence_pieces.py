"""Tokenizers that SentencePiece has learnt."""

from collections.abc import Iterable

import numpy as np
import sentencepiece

from transfusion_jax.data.text import tokenizers

AS_WRITTEN = bytes([0x1A, 4, 0x18, 0, 0x20, 0])
"""Protobuf: normalizer_spec (3) with add_dummy_prefix (3) and remove_extra_whitespaces
(4) false. Appended to a model it is merged into it, by the rules of protobuf."""


class SentencePiece(tokenizers.Numbered):
  """A SentencePiece model, without the changes that it makes to spaces.

  Documents are encoded piece by piece, so no space is put before a text and none is
  taken away: `decode(encode(a) + encode(b)) == a + b`. For the ids that the model's
  authors have for a text, which begin with such a space, encode `' ' + text`.

  The round trip is exact for a model with an identity normaliser and byte fallback, as
  those of Llama and Mistral, save that U+2581, the model's sign for a space, becomes a
  space. Another normaliser (nmt_nfkc) changes letters as it was made to, and without
  byte fallback unknown letters become the model's token for them, read as a question
  mark.

  The model's own control tokens (`<s>`, `</s>`) keep their ids but are never encoded:
  in a text they are letters like others. Symbols that its authors declared user-defined
  are text.
  """

  def __init__(self, model: bytes, *, reserved: int, multiple: int):
    """Loads a model.

    Raises:
      ValueError: the bytes are not such a model.
    """
    try:
      self._model = sentencepiece.SentencePieceProcessor(model_proto=model + AS_WRITTEN)
    except RuntimeError as error:
      raise ValueError(
        f'expected a SentencePiece model, found {len(model)} bytes that are none; '
        "name the .model file, or set kind='hugging_face' for a tokenizer.json"
      ) from error
    size = self._model.get_piece_size()
    super().__init__(size, model, reserved=reserved, multiple=multiple)

  def encode(self, text: str) -> list[int]:
    """Ids of a text.

    Raises:
      ValueError: the text holds half a character; see `tokenizers.utf8`.
    """
    tokenizers.utf8(text)
    return self._model.encode(text)

  def decode(self, ids: Iterable[int | np.integer]) -> str:
    """Text of the ids; bytes that are no UTF-8 become U+FFFD."""
    return self._model.decode(self._base(ids))
