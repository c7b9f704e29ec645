"""Captions of held-out pictures beside what people say of them.

CIDEr (Vedantam et al., 2015), BLEU-1 to -4 (Papineni et al., 2002) and ROUGE-L (Lin,
2004) by pycocoevalcap, the code of the MS-COCO caption challenge, against all captions
of every picture. It compares words as the Penn Treebank tokenizer makes them, without
punctuation; that one is a Java program. Where there is no Java, words are taken plainly
(lower case, letters, digits and apostrophes), and the scores are called so: they are
close to the others, and not to be compared with them.
"""

import dataclasses
import itertools
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from transfusion_jax.core import log
from transfusion_jax.data import captioned, corpus, documents
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.images import image_files
from transfusion_jax.evaluation import extras, report
from transfusion_jax.generation import writer as writer_lib

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@dataclasses.dataclass(frozen=True)
class CaptionsConfig:
  """Settings of the captions evaluator.

  Attributes:
    kind: tells this evaluator from the others.
    source: pictures with captions.
    pictures: how many, at random; 0: all of them. CIDEr weighs words by how many of
      these images they are said of, so that it belongs to the set.
    limit: tokens of a caption at most.
    shown: captions in the report.
    seed: of the choice.
  """

  kind: Literal['captions']
  source: corpus.SourceConfig
  pictures: int
  limit: int
  shown: int
  seed: int

  def __post_init__(self):
    if self.pictures < 0 or self.pictures == 1 or self.limit < 1:
      raise ValueError(
        'expected at least 2 pictures (or 0 for all of them) and a limit of at least 1 '
        f'token, found {self.pictures} and {self.limit}; change them'
      )


class Captions:
  """The evaluator."""

  def __init__(
    self,
    config: CaptionsConfig,
    *,
    scenes: emoji_scenes.EmojiScenesConfig,
    pictures: image_files.ImagesConfig,
    rows: int,
  ):
    """Opens the source.

    Args:
      config: which pictures.
      scenes: which emoji scenes, where it is those.
      pictures: their size.
      rows: pictures at a time.

    Raises:
      ValueError: the source or the package is not there.
    """
    extras.need('pycocoevalcap', 'CIDEr, BLEU and ROUGE')
    self._config, self._rows = config, rows
    self._held = captioned.CaptionedPictures(
      config.source, scenes=scenes, pictures=pictures
    )
    self._chosen = self._held.choose(config.pictures, config.seed)

  def check(self) -> None:
    """Looks for an image with a caption among the first."""
    self._held.check()

  def __call__(
    self, writer: writer_lib.Writer
  ) -> Iterator[tuple[str, float | report.Gallery]]:
    """Scores over all pictures, and the first captions."""
    said, references, tiles = [], [], []
    chosen = (each for _, each in self._held.sound(self._chosen))
    while part := list(itertools.islice(chosen, self._rows)):
      captions = writer.caption(
        [each.picture for each in part], limit=self._config.limit
      )
      said += captions
      references += [each.captions for each in part]
      tiles += [_tile(*pair) for pair in zip(part, captions, strict=True)]
      del tiles[self._config.shown :]
    yield from scores(said, references).items()
    yield 'pictures', float(len(said))
    if tiles:
      note = 'The first pictures, as they were drawn at random; none was chosen.'
      yield 'captions', report.Gallery('Captions of held-out pictures', note, tiles)


def scores(
  said: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
  """CIDEr (1.2 where papers write 120), BLEU-1 to -4 and ROUGE-L.

  Args:
    said: a caption of every picture.
    references: all right captions of each.

  Returns:
    By name, which ends in `_plain` where words were taken without Java.
  """
  from pycocoevalcap.bleu import bleu
  from pycocoevalcap.cider import cider
  from pycocoevalcap.rouge import rouge

  tokenize, suffix = _tokenizer()
  texts = (references, [[text] for text in said])
  wanted, found = (tokenize(dict(enumerate(map(list, each)))) for each in texts)
  (cider_score, _), (rouge_score, _) = (
    measure.compute_score(wanted, found) for measure in (cider.Cider(), rouge.Rouge())
  )
  bleu_scores, _ = bleu.Bleu(4).compute_score(wanted, found, verbose=0)
  made = {'cider': cider_score, 'rouge_l': rouge_score}
  made |= {f'bleu_{n}': score for n, score in enumerate(bleu_scores, start=1)}
  return {f'{name}{suffix}': float(value) for name, value in made.items()}


Tokenize = Callable[[dict[int, list[str]]], dict[int, list[str]]]
"""From texts by picture to the same with a space between any two words."""


def _tokenizer() -> tuple[Tokenize, str]:
  """Chooses the tokenizer of the measures, and the ending of the names of scores."""
  if shutil.which('java'):
    return _penn_treebank, ''
  log.once(
    'captions: no Java found, so that words are not those of the Penn Treebank; names '
    'of scores end in _plain'
  )
  return plain, '_plain'


def _penn_treebank(texts: dict[int, list[str]]) -> dict[int, list[str]]:
  from pycocoevalcap.tokenizer import ptbtokenizer

  # One line a text: any other end of a line would shift all that follow.
  lines = {
    number: [{'caption': ' '.join(text.split())} for text in each]
    for number, each in texts.items()
  }
  return ptbtokenizer.PTBTokenizer().tokenize(lines)


def plain(texts: dict[int, list[str]]) -> dict[int, list[str]]:
  """Words in lower case: letters and digits, with apostrophes between them."""
  return {
    number: [' '.join(WORD.findall(text.lower())) for text in each]
    for number, each in texts.items()
  }


def _tile(asked: documents.Captioned, said: str) -> report.Tile:
  return report.Tile(asked.picture, said, good=said in asked.captions or None)
