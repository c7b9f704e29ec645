"""Small tokenizers, trained here."""

import io

import sentencepiece
import tokenizers as library
from tokenizers import (
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
  trainers,
)


def corpus() -> list[str]:
  return ['a red apple on a blue panda', 'two pandas, one apple', 'the red panda'] * 4


def trained(**options) -> bytes:
  """A tiny SentencePiece model, with the normaliser that is its trainer's default."""
  buffer = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(corpus()),
    model_writer=buffer,
    minloglevel=2,
    num_threads=1,
    **{'vocab_size': 40, 'hard_vocab_limit': False, **options},
  )
  return buffer.getvalue()


def byte_level() -> library.Tokenizer:
  """A byte-level BPE with all that such files add to a text."""
  made = library.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
  made.decoder = decoders.ByteLevel()
  made.train_from_iterator(
    [*corpus(), '<s>' * 9],
    trainers.BpeTrainer(
      vocab_size=320,
      special_tokens=['<s>', '</s>', '<pad>', '[CLS]', '<|endoftext|>'],
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
  )
  made.add_tokens(['    '])
  made.post_processor = processors.TemplateProcessing(
    single='<s> $A </s>', special_tokens=[('<s>', 0), ('</s>', 1)]
  )
  made.enable_truncation(4)
  made.enable_padding(length=9)
  return made


def llama_like() -> library.Tokenizer:
  """Pieces over U+2581, bytes for the rest, and a space before every text."""
  letters = sorted(set(''.join(corpus()).replace(' ', '▁')) | set('<>/s'))
  names = ['<unk>', '<s>', '</s>', *(f'<0x{i:02X}>' for i in range(256)), *letters]
  made = library.Tokenizer(
    models.BPE(
      {name: index for index, name in enumerate(names)},
      [],
      unk_token='<unk>',
      byte_fallback=True,
    )
  )
  made.normalizer = normalizers.Sequence(
    [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
  )
  made.decoder = decoders.Sequence(
    [
      decoders.Replace('▁', ' '),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(' ', 1, 0),
    ]
  )
  made.add_special_tokens(['<unk>', '<s>', '</s>'])
  return made


def greedy() -> library.Tokenizer:
  """A unigram model, which by itself finds '<s>' in a text and likes it best."""
  scores = [(letter, -3.0) for letter in sorted(set('<s>/ared pounk▁'))]
  made = library.Tokenizer(
    models.Unigram([('<unk>', 0.0), ('<s>', 0.0), ('</s>', 0.0), *scores], 0, False)
  )
  made.pre_tokenizer = pre_tokenizers.Metaspace()
  made.decoder = decoders.Metaspace()
  made.add_special_tokens(['<unk>', '<s>', '</s>'])
  return made
