"""Choice of the tokenizer of a run."""

import dataclasses
from typing import Literal

from transfusion_jax.core import paths
from transfusion_jax.data import package_files
from transfusion_jax.data.text import tokenizers


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
  """The tokenizer of a run.

  Attributes:
    kind: 'words' of the data's captions, 'bytes' of the text, a 'sentencepiece' model,
      or a tokenizer.json of 'hugging_face'.
    path: of the model or the tokenizer.json, and empty for the others;
      'package:NAME/FILE' is a file that came with an installed package.
    reserved: ids kept free after the special tokens, say for the codes of pictures.
    multiple: the token table is padded to a multiple of this.
  """

  kind: Literal['words', 'bytes', 'sentencepiece', 'hugging_face']
  path: str
  reserved: int
  multiple: int

  def __post_init__(self):
    if (self.kind in ('sentencepiece', 'hugging_face')) != bool(self.path):
      raise ValueError(
        "expected a path for 'sentencepiece' or 'hugging_face', and none for other "
        f'kinds, found kind={self.kind!r} and path={self.path!r}; set or empty it'
      )
    object.__setattr__(self, 'path', paths.anywhere(self.path, 'tokenizer.path'))


def make(config: TokenizerConfig, words: tuple[str, ...]) -> tokenizers.Tokenizer:
  """The tokenizer; `words` is the vocabulary of kind 'words' and else not looked at.

  Raises:
    ValueError: the file or the package that reads it is missing, or the file is bad.
  """
  sizes = {'reserved': config.reserved, 'multiple': config.multiple}
  if config.kind == 'words' and not words:
    raise ValueError(
      "expected a tokenizer for text of one's own, found 'words', which is for emoji "
      'scenes; set --config.data.tokenizer.kind=bytes'
    )
  if config.kind == 'words':
    return tokenizers.Words(words, **sizes)
  if config.kind == 'bytes':
    return tokenizers.Bytes(**sizes)
  data = package_files.read(config.path, 'the file of a tokenizer')
  try:  # here, because both are extras
    if config.kind == 'sentencepiece':
      from transfusion_jax.data.text import sentence_pieces

      reader = sentence_pieces.SentencePiece
    else:
      from transfusion_jax.data.text import hugging_face

      reader = hugging_face.HuggingFace
  except ImportError as error:
    raise ValueError(
      f"expected the packages of the extra 'text', found no {error.name}; "
      "pip install 'transfusion-jax[text]'"
    ) from error
  try:
    return reader(data, **sizes)
  except ValueError as error:
    raise ValueError(f'{config.path}: {error}') from error
