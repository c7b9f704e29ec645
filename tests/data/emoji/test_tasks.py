"""Tasks about scenes: determinism, held-out combinations, words, packed batches."""

import dataclasses
import hashlib
import itertools

import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.data import corpus, epochs, inspection, pipeline
from transfusion_jax.data.emoji import edits as emoji_edits
from transfusion_jax.data.emoji import questions as emoji_questions
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.emoji import tasks as emoji_tasks
from transfusion_jax.data.rows import layout
from transfusion_jax.data.text import tokenizers

PATCHES = 16


def opened(config, split, form):
  scenes = emoji_scenes.EmojiScenes(config, split)
  return emoji_tasks.make(form, config, split, scenes)


def with_tasks(data, **weights):
  sources = {'scenes': tiny.source('emoji_scenes')}
  for form in ('question', 'edit'):
    sources[form] = tiny.source('emoji_scenes', form=form, **weights)
  return dataclasses.replace(data, sources=sources)


def batches(data, count):
  source = pipeline.batches(
    data, patches=PATCHES, image_shape=(32, 32, 3), seed=0, rows=range(data.rows)
  )
  return list(itertools.islice(source, count))


@pytest.mark.parametrize('form', ['question', 'edit'])
def test_a_task_is_a_function_of_seed_split_and_index(mini, form):
  def texts(config, split, indices):
    tasks = opened(config, split, form)
    return [tasks[index].document()[1].text for index in indices]

  here = texts(mini, 'train', range(20))
  assert texts(mini, 'train', reversed(range(20))) == here[::-1]
  assert texts(mini, 'test', range(20)) != here
  assert texts(dataclasses.replace(mini, seed=1), 'train', range(20)) != here


def combinations(picture):
  names = sorted({thing.name for thing in picture.objects})
  colors = {(thing.name, thing.color) for thing in picture.objects}
  return set(itertools.combinations(names, 2)), colors


def test_what_is_held_out_is_in_no_task(mini):
  """Neither in the pictures of questions, nor in those that edits result in."""
  held_pairs, held_colors = set(), set()
  scenes = emoji_scenes.EmojiScenes(mini, 'heldout')
  for index in range(1000):
    picture = scenes[index].pictures[-1]
    pairs, colors = combinations(picture)
    held_pairs |= pairs
    held_colors |= colors if picture.kind in ('single', 'count') else set()
  assert len(held_pairs) == 12  # a tenth of 16 * 15 / 2,
  assert len(held_colors) == 10  # and of 16 * 6
  for split in ('train', 'test'):
    asked = opened(mini, split, 'question')
    edited = opened(mini, split, 'edit')
    pictures = [asked[index].picture for index in range(500)]
    pictures += [edited[index].after for index in range(1000)]
    for picture in pictures:
      pairs, colors = combinations(picture)
      assert pairs.isdisjoint(held_pairs)
      assert colors.isdisjoint(held_colors)
  results = opened(mini, 'heldout', 'edit')
  after = [combinations(results[index].after) for index in range(300)]
  assert any(not pairs.isdisjoint(held_pairs) for pairs, _ in after)


def test_a_scene_of_which_nothing_can_be_made(mini):
  tiles = dataclasses.replace(
    mini, glyphs=2, heldout=0.0, single=0.0, count=0.0, pair=0.0, story=0.0
  )
  with pytest.raises(ValueError, match='found none at 3; use more glyphs'):
    opened(tiles, 'train', 'edit')[3]


def test_every_word_is_known_and_no_more_than_needed(data, mini):
  words = pipeline.tokenizer(with_tasks(data))
  said = set()
  for form in emoji_tasks.FORMS:
    tasks = opened(mini, 'train', form)
    for index in range(1000):
      for segment in tasks[index].document():
        text = getattr(segment, 'text', '').strip()
        assert words.decode(words.encode(text)) == text
        said |= set(text.replace('?', ' ?').split())
  assert said == set(emoji_tasks.vocabulary(mini, emoji_tasks.FORMS))


def test_captions_alone_know_no_other_words(data, mini):
  captions = emoji_scenes.vocabulary(mini)
  assert emoji_tasks.vocabulary(mini, {'captioned'}) == captions
  assert pipeline.tokenizer(data).base_size == len(captions)
  assert pipeline.tokenizer(with_tasks(data)).base_size > len(captions)


def test_batches_of_captions_are_what_they_were(data):
  """Rows of numbers before there were tasks; a change moves every run's data."""
  digest = hashlib.sha256()
  for batch in batches(data, 3):
    for name in sorted(batch.keys() - {'images'}):
      digest.update(name.encode() + batch[name].tobytes())
  assert digest.hexdigest()[:16] == '8c3d08c6ea4f71c3'


def test_tasks_of_weight_zero_change_nothing(data):
  """Until the step at which they begin; no words are added to the bytes."""
  bytes_ = dataclasses.replace(data.tokenizer, kind='bytes')
  plain = dataclasses.replace(
    data, tokenizer=bytes_, row_length=512, long_pictures='split'
  )
  later = with_tasks(plain, weights=(0.0, 1.0), since=(0, 3))
  one, other = batches(plain, 5), batches(later, 5)
  for step, (here, there) in enumerate(zip(one, other, strict=True)):
    same = all(np.array_equal(here[name], there[name]) for name in here)
    assert same == (step < 3)


def test_sources_of_tasks_share_rows_with_captions(data):
  """By the positions that are asked for."""
  mixed = with_tasks(data, weights=(2.0,))
  source = pipeline.batches(
    mixed, patches=PATCHES, image_shape=(32, 32, 3), seed=0, rows=range(mixed.rows)
  )
  batch = [next(source) for _ in range(8)][-1]
  assert ((batch['noise_cap'] == 0) & (batch['image_weight'] == 0)).any()
  shares = pipeline.shares(source.get_state())
  assert abs(shares['question'] - 0.4) < 0.05
  assert abs(shares['edit'] - 0.4) < 0.05


def test_tasks_have_an_order_of_their_own(data, mini):
  def first(form):
    config = tiny.source('emoji_scenes', form=form)
    opened = corpus.open_collection(config, 'train', scenes=mini, pictures=None)
    return epochs.Endless(opened, name=form, seed=0)

  captioned, asked = first('captioned'), first('question')
  picture = lambda document: next(s for s in document if hasattr(s, 'pixels'))  # noqa: E731
  pairs = [(picture(captioned[k]), picture(asked[k])) for k in range(20)]
  assert not all(np.array_equal(one.pixels, two.pixels) for one, two in pairs)


def test_longest_documents_bound_what_is_made(mini):
  tokenizer = tokenizers.Bytes(reserved=0, multiple=8)
  plan = layout.Layout(tokenizer, patches=PATCHES)
  measure = lambda text: len(tokenizer.encode(text))  # noqa: E731
  for form in ('question', 'edit'):
    ((pictures, most),) = emoji_tasks.longest_documents(mini, {form}, measure)
    tasks = opened(mini, 'train', form)
    lengths = [len(plan.document(tasks[index].document())) for index in range(1000)]
    bound = plan.length(most, pictures)
    assert bound - 24 <= max(lengths) <= bound


def test_rows_that_are_too_short_for_an_edit(data):
  only = {'edits': tiny.source('emoji_scenes', form='edit')}
  short = dataclasses.replace(data, sources=only, row_length=44)
  with pytest.raises(ValueError, match=r'longest document, \d+ positions and 2 images'):
    inspection.check(short, PATCHES)


def test_scenes_have_no_other_form():
  with pytest.raises(ValueError, match="for emoji_scenes, found 'text'"):
    tiny.source('emoji_scenes', form='text')


def test_kinds_can_be_chosen(mini):
  asked, edited = (opened(mini, 'test', form) for form in ('question', 'edit'))
  for index in range(60):
    for kind in emoji_questions.KINDS:
      found = asked.ask(index, [kind])
      assert found is None or [each.kind for each in found.questions] == [kind]
    for kind in emoji_edits.KINDS:
      change = edited.edit(index, [kind])
      assert change is None or change.edit.kind == kind
