"""Layout: what stands where, what is seen, and what is learnt."""

import numpy as np
import pytest

from transfusion_jax.data import documents
from transfusion_jax.data.rows import layout
from transfusion_jax.data.text import tokenizers

PATCHES = 4
TOKENIZER = tokenizers.Words(('a', 'b', 'c'), reserved=0, multiple=8)
SPECIAL = TOKENIZER.special
A, B, C = TOKENIZER.encode('a b c')
BOS, EOS, BOI, EOI, PAD = (
  SPECIAL.bos,
  SPECIAL.eos,
  SPECIAL.boi,
  SPECIAL.eoi,
  SPECIAL.pad,
)
LAYOUT = layout.Layout(TOKENIZER, patches=PATCHES)


def text(words, *, learn=True):
  return documents.Text(words, learn=learn)


def image(*, learn=True, noise_cap=1.0, value=0, size=8):
  pixels = np.full((size, size, 3), value, np.uint8)
  return documents.Image(pixels, learn=learn, noise_cap=noise_cap)


def examples():
  yield (text('a b'), image())
  yield (image(noise_cap=0.5), text('c'))
  yield (image(),)
  yield ()
  yield (text('a'), image(), text('b'), image(value=9), text('c'))
  yield (image(learn=False, noise_cap=0.0), text('a', learn=False), image())
  yield (text('a b'), text('c', learn=False))
  yield (image(), image(value=1))


def test_caption_first():
  sequence = LAYOUT.document((text('a b'), image()))
  patches = [PAD] * PATCHES
  np.testing.assert_array_equal(sequence.tokens, [BOS, A, B, BOI, *patches, EOI, EOS])
  np.testing.assert_array_equal(sequence.targets, [A, B, BOI, *patches, EOI, EOS, PAD])
  np.testing.assert_array_equal(sequence.weight, [1, 1, 1, 0, 0, 0, 0, 0, 1, 0])
  np.testing.assert_array_equal(sequence.position, range(10))
  np.testing.assert_array_equal(sequence.end, [1, 2, 3, 4, 8, 8, 8, 8, 9, 10])
  np.testing.assert_array_equal(sequence.slot, [-1, -1, -1, -1, 0, 1, 2, 3, -1, -1])
  assert sequence.images.shape == (1, 8, 8, 3)
  assert sequence.noise_cap == [1]
  assert sequence.image_weight == [1]


def test_a_dropped_caption_leaves_the_null_layout():
  sequence = LAYOUT.document((image(),))
  np.testing.assert_array_equal(sequence.tokens, [BOS, BOI, *[PAD] * PATCHES, EOI, EOS])
  null = LAYOUT.null()
  np.testing.assert_array_equal(null.tokens, sequence.tokens[:2])
  np.testing.assert_array_equal(LAYOUT.picture_prompt('').tokens, null.tokens)
  np.testing.assert_array_equal(LAYOUT.picture_prompt(' \n').tokens, null.tokens)


def is_answer(segment):
  return isinstance(segment, documents.Text) and segment.learn


def is_given(segment):
  return isinstance(segment, documents.Text) and not segment.learn


def test_every_answer_learns_to_end_whatever_is_asked_next():
  asked = (text('a', learn=False), text('b c'), text('a', learn=False), text('b'))
  sequence = LAYOUT.document(asked)
  np.testing.assert_array_equal(sequence.tokens, [BOS, A, B, C, A, B, EOS])
  np.testing.assert_array_equal(sequence.targets, [A, B, C, EOS, B, EOS, PAD])
  np.testing.assert_array_equal(sequence.weight, [0, 1, 1, 1, 1, 1, 0])


@pytest.mark.parametrize('document', [*examples()])
def test_rule_of_what_is_learnt(document):
  sequence = LAYOUT.document(document)
  t = len(sequence)
  # By segment: the tokens it consists of, in the order of the sequence.
  owners = [None]
  for segment in document:
    if isinstance(segment, documents.Text):
      owners += [segment] * len(TOKENIZER.encode(segment.text))
    else:
      owners += [segment] * (PATCHES + 2)
  owners.append(document[-1] if document else None)
  assert len(owners) == t
  for i in range(t):
    discrete = sequence.slot[i] < 0
    learnt = (
      discrete
      and sequence.tokens[i] != BOI
      and i + 1 < t
      and sequence.slot[i + 1] < 0
      and owners[i + 1] is not None
      and owners[i + 1].learn
    )
    if i + 1 < t and is_answer(owners[i]) and is_given(owners[i + 1]):
      assert (sequence.weight[i], sequence.targets[i]) == (1, EOS)
      continue
    assert sequence.weight[i] == learnt
    if learnt:
      assert sequence.targets[i] == sequence.tokens[i + 1]
      assert sequence.targets[i] not in (EOI, PAD, BOS)


@pytest.mark.parametrize('document', [*examples()])
def test_rule_of_what_is_seen(document):
  """End is the paper's rule: j <= i, or both in one image."""
  sequence = LAYOUT.document(document)
  t = len(sequence)
  whose = np.where(sequence.slot < 0, -1, sequence.slot // PATCHES)
  for i in range(t):
    for j in range(t):
      allowed = j <= i or (whose[i] == whose[j] >= 0)
      assert (j < sequence.end[i]) == allowed


@pytest.mark.parametrize('document', [*examples()])
def test_slots_name_every_patch_once_in_order(document):
  sequence = LAYOUT.document(document)
  slots = sequence.slot[sequence.slot >= 0]
  np.testing.assert_array_equal(slots, range(PATCHES * len(sequence.images)))
  images = [segment for segment in document if isinstance(segment, documents.Image)]
  for pixels, segment in zip(sequence.images, images, strict=True):
    np.testing.assert_array_equal(pixels, segment.pixels)
  assert list(sequence.noise_cap) == [segment.noise_cap for segment in images]
  assert list(sequence.image_weight) == [segment.learn for segment in images]
  words = sum(
    len(TOKENIZER.encode(s.text)) for s in document if isinstance(s, documents.Text)
  )
  assert len(sequence) == LAYOUT.length(words, len(images))


@pytest.mark.parametrize('document', [*examples()])
def test_a_prompt_is_the_beginning_of_its_document(document):
  whole, prompt = LAYOUT.document(document), LAYOUT.prompt(document, open_image=False)
  for field in ('tokens', 'position', 'end', 'slot'):
    expected = getattr(whole, field)[: len(prompt)]
    np.testing.assert_array_equal(getattr(prompt, field), expected)
  opened = LAYOUT.prompt(document, open_image=True)
  longer = LAYOUT.document((*document, image()))
  np.testing.assert_array_equal(opened.tokens, longer.tokens[: len(opened)])
  assert opened.tokens[-1] == BOI


def test_prompts_for_pictures_and_captions():
  np.testing.assert_array_equal(LAYOUT.picture_prompt('b a').tokens, [BOS, B, A, BOI])
  pixels = image(value=7).pixels
  prompt = LAYOUT.caption_prompt(pixels)
  np.testing.assert_array_equal(prompt.tokens, [BOS, BOI, *[PAD] * PATCHES, EOI])
  np.testing.assert_array_equal(prompt.images[0], pixels)
  assert prompt.noise_cap == [0]  # clean context
  assert not prompt.weight.any()


def test_bad_documents():
  with pytest.raises(ValueError, match="found 'wombat'"):
    LAYOUT.document((text('a wombat'),))
  with pytest.raises(ValueError, match='pictures of one size'):
    LAYOUT.document((image(), image(size=16)))
  with pytest.raises(ValueError, match=r'noise_cap from 0 to 1, found 1\.5'):
    image(noise_cap=1.5)


def long_document():
  return LAYOUT.document(
    (text('a b c a'), image(value=1), text('b'), image(value=2), image(value=3))
    + (text('c c a b c a b'),)
  )


@pytest.mark.parametrize('length', [6, 7, 9, 12, 100])
@pytest.mark.parametrize('slots', [1, 2, 9])
def test_parts_are_the_whole_and_fit(length, slots):
  whole = long_document()
  parts = list(layout.cut(whole, length, slots))
  for field in ('tokens', 'targets', 'weight', 'noise_cap', 'image_weight', 'images'):
    joined = np.concatenate([getattr(part, field) for part in parts])
    np.testing.assert_array_equal(joined, getattr(whole, field))
  for part in parts:
    assert len(part) <= length
    assert len(part.images) <= slots
    np.testing.assert_array_equal(part.position, np.arange(len(part)))
    shown = part.slot[part.slot >= 0]
    np.testing.assert_array_equal(shown, np.arange(len(part.images) * PATCHES))
    assert (part.end > part.position).all()
    assert (part.end <= len(part)).all()
    # A picture stands between its BOI and its EOI, whole.
    assert (part.tokens == BOI).sum() == (part.tokens == EOI).sum() == len(part.images)


def test_what_is_seen_in_a_part_is_what_was_seen_but_for_the_parts_before():
  whole, first = long_document(), 0
  for part in layout.cut(whole, 9, 2):
    there = whole.end[first : first + len(part)] - first
    np.testing.assert_array_equal(part.end, there)
    first += len(part)


def test_parts_are_as_few_as_text_allows():
  plain = LAYOUT.document((text('a b c ' * 20),))
  assert [len(part) for part in layout.cut(plain, 25, 0)] == [25, 25, 12]


@pytest.mark.parametrize(('length', 'slots'), [(5, 2), (20, 0)])
def test_a_picture_longer_than_a_row_cannot_be_cut(length, slots):
  with pytest.raises(
    ValueError, match='expected rows that hold a picture, 6 positions'
  ):
    list(layout.cut(long_document(), length, slots))
