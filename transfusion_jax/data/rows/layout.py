"""Documents and prompts as one sequence of positions, for training and sampling alike.

  BOS  text ...  BOI patch_1 .. patch_n EOI  text ...  EOS

Which predictions are learnt (Transfusion, footnote 8 and section 3.1): nothing is
predicted from BOI or from a patch, hence EOI is never a target and is appended when a
picture is finished; BOI is predicted from what precedes it. Of the other next tokens,
those count that belong to a segment with `learn`: its text, its BOI, and EOS if it is
the last one. Where a learnt text is followed by one that is not, as an answer by the
next question, EOS is its target too, and not what somebody else says next.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float16, Float32, Int32, UInt8

from transfusion_jax.data import documents
from transfusion_jax.data.text import tokenizers


@dataclasses.dataclass(frozen=True, eq=False)
class Sequence:
  """One laid-out document.

  Attributes:
    tokens: ids; PAD under image patches.
    targets: the next token, or EOS where a learnt text ends; PAD at the last position.
    weight: 1 where the next token is to be learnt.
    position: 0, 1, ...
    end: one past the last position seen: the next position for tokens, the end of the
      own picture for patches.
    slot: which patch stands here, counted through the document's images, or -1.
    images: the pictures, or the moments of their latents; all of one size.
    noise_cap: largest noise level of each picture.
    image_weight: 1 where the picture is to be denoised.
    patches: positions per picture.
  """

  tokens: Int32[np.ndarray, ' t']
  targets: Int32[np.ndarray, ' t']
  weight: Float32[np.ndarray, ' t']
  position: Int32[np.ndarray, ' t']
  end: Int32[np.ndarray, ' t']
  slot: Int32[np.ndarray, ' t']
  images: UInt8[np.ndarray, 'i h w 3'] | Float16[np.ndarray, 'i y x m']
  noise_cap: Float32[np.ndarray, ' i']
  image_weight: Float32[np.ndarray, ' i']
  patches: int

  def __len__(self) -> int:
    return len(self.tokens)


class Layout:
  """Lays out documents and prompts for one tokenizer and one number of patches."""

  def __init__(self, tokenizer: tokenizers.Tokenizer, *, patches: int):
    self.tokenizer = tokenizer
    self.patches = patches

  def document(self, document: documents.Document) -> Sequence:
    """A whole document, for training.

    Raises:
      ValueError: the text cannot be encoded, or pictures differ in size.
    """
    return self._lay_out(document, (self.tokenizer.special.eos,))

  def prompt(self, document: documents.Document, *, open_image: bool) -> Sequence:
    """The beginning of a document, to be continued; `open_image` ends it with BOI."""
    return self._lay_out(document, (self.tokenizer.special.boi,) if open_image else ())

  def picture_prompt(self, text: str) -> Sequence:
    """`BOS text BOI`: a picture of this text follows. No text: see `null`."""
    segments = (_said(text),) if text.split() else ()
    return self.prompt(segments, open_image=True)

  def caption_prompt(self, picture: UInt8[np.ndarray, 'h w 3']) -> Sequence:
    """`BOS BOI patches EOI`: what is said of this picture follows."""
    return self.prompt((_shown(picture),), open_image=False)

  def answer_prompt(
    self, picture: UInt8[np.ndarray, 'h w 3'], question: str
  ) -> Sequence:
    """`BOS BOI patches EOI question`: the answer follows."""
    return self.prompt((_shown(picture), _said(question)), open_image=False)

  def edit_prompt(
    self, picture: UInt8[np.ndarray, 'h w 3'], instruction: str
  ) -> Sequence:
    """`BOS BOI patches EOI instruction BOI`: what the picture becomes follows."""
    return self.prompt((_shown(picture), _said(instruction)), open_image=True)

  def of_ids(self, ids: Iterable[int]) -> Sequence:
    """Text that is in ids already, BOS among them where it is wanted, to be read."""
    tokens = list(ids)
    end = list(range(1, len(tokens) + 1))
    return self._finish(tokens, [False] * len(tokens), [-1] * len(tokens), end, [], [])

  def null(self) -> Sequence:
    """`BOS BOI`: how a picture without caption begins, in training and in guidance."""
    return self.prompt((), open_image=True)

  def length(self, words: int, pictures: int) -> int:
    """Positions of a document with that many text tokens and pictures."""
    return words + pictures * (self.patches + 2) + 2

  def _lay_out(self, segments: documents.Document, tail: tuple[int, ...]) -> Sequence:
    special, n = self.tokenizer.special, self.patches
    tokens, learnt, slot, end = [special.bos], [False], [-1], [1]
    images: list[documents.Image] = []
    ends: list[int] = []  # of learnt texts behind which one follows that is given
    for segment in segments:
      if isinstance(segment, documents.Text):
        if learnt[-1] and not segment.learn:
          ends.append(len(tokens) - 1)
        ids = self.tokenizer.encode(segment.text)
        learnt += [segment.learn] * len(ids)
        slot += [-1] * len(ids)
        end += range(len(tokens) + 1, len(tokens) + len(ids) + 1)
        tokens += ids
      else:
        first = len(tokens) + 1
        slot += [-1, *range(len(images) * n, (len(images) + 1) * n), -1]
        end += [first, *[first + n] * n, first + n + 1]
        tokens += [special.boi, *[special.pad] * n, special.eoi]
        learnt += [segment.learn] + [False] * (n + 1)
        images.append(segment)
    tokens += tail
    learnt += [bool(segments) and segments[-1].learn] * len(tail)
    slot += [-1] * len(tail)
    end += range(len(end) + 1, len(end) + 1 + len(tail))
    return self._finish(tokens, learnt, slot, end, images, ends)

  def _finish(self, tokens, learnt, slot, end, images, ends) -> Sequence:
    ids = np.array(tokens, np.int32)
    slots = np.array(slot, np.int32)
    targets = np.full_like(ids, self.tokenizer.special.pad)
    targets[:-1] = ids[1:]
    weight = np.zeros(len(ids), np.float32)
    weight[:-1] = learnt[1:]
    weight[(ids == self.tokenizer.special.boi) | (slots >= 0)] = 0
    targets[ends], weight[ends] = self.tokenizer.special.eos, 1
    return Sequence(
      tokens=ids,
      targets=targets,
      weight=weight,
      position=np.arange(len(ids), dtype=np.int32),
      end=np.array(end, np.int32),
      slot=slots,
      images=_stack([image.pixels for image in images]),
      noise_cap=np.array([image.noise_cap for image in images], np.float32),
      image_weight=np.array([image.learn for image in images], np.float32),
      patches=self.patches,
    )


def cut(sequence: Sequence, length: int, slots: int) -> Iterator[Sequence]:
  """Parts of a sequence that fit into rows, no picture parted.

  A part knows nothing of those before it: its positions begin at 0, and what it sees
  begins with it. Every prediction is kept, that of the next part's first token as well.

  Args:
    sequence: of any length.
    length: positions of a row.
    slots: pictures that a row can hold.

  Raises:
    ValueError: a picture alone is longer than a row.
  """
  shown = sequence.slot >= 0
  # A picture begins where the next position is its first patch, and ends behind EOI.
  begins = np.flatnonzero(shown[1:] & (sequence.slot[1:] % sequence.patches == 0))
  first = 0
  while first < len(sequence):
    stop = min(first + length, len(sequence))
    ahead = begins[np.searchsorted(begins, first) :]
    if len(ahead) > slots:
      stop = min(stop, int(ahead[slots]))
    before = np.searchsorted(begins, stop)  # pictures that begin before the end
    if before and stop < begins[before - 1] + sequence.patches + 2:
      stop = int(begins[before - 1])
    if stop <= first:
      raise ValueError(
        f'expected rows that hold a picture, {sequence.patches + 2} positions, found '
        f'rows of {length} positions and {slots} pictures; raise data.row_length or '
        'data.image_slots'
      )
    yield _part(sequence, first, stop)
    first = stop


def _part(sequence: Sequence, first: int, stop: int) -> Sequence:
  here = slice(first, stop)
  slot = sequence.slot[here]
  used = np.unique(slot[slot >= 0] // sequence.patches)
  before = int(used[0]) if len(used) else 0
  pictures = slice(before, before + len(used))
  return dataclasses.replace(
    sequence,
    tokens=sequence.tokens[here],
    targets=sequence.targets[here],
    weight=sequence.weight[here],
    position=sequence.position[here] - np.int32(first),
    end=sequence.end[here] - np.int32(first),
    slot=np.where(slot < 0, slot, slot - np.int32(before * sequence.patches)),
    images=sequence.images[pictures],
    noise_cap=sequence.noise_cap[pictures],
    image_weight=sequence.image_weight[pictures],
  )


def _stack(pixels: list[np.ndarray]) -> np.ndarray:
  sizes = sorted({picture.shape[:2] for picture in pixels})
  if len(sizes) > 1:
    raise ValueError(
      f'expected pictures of one size in a document, found {sizes}; resize them first'
    )
  return np.stack(pixels) if pixels else np.zeros((0, 0, 0, 3), np.uint8)


def _shown(picture: UInt8[np.ndarray, 'h w 3']) -> documents.Image:
  return documents.Image(picture, learn=False, noise_cap=0.0)


def _said(words: str) -> documents.Text:
  return documents.Text(words, learn=False)
