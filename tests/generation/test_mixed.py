"""Prompts of both kinds in, continuations of both kinds out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from transfusion_jax.generation import image, mixed

SAMPLING = image.ImageSampling(solver='ddim', steps=3, guidance=2.0, clip=2.0)


def keys(count, seed=0):
  return jax.random.split(jax.random.key(seed), count)


def test_runs_cut_a_prompt_at_its_pictures():
  special = tiny.SPECIAL
  prompt = tiny.prompt(tiny.text('a b'), tiny.image(1), tiny.text('c'), tiny.image(2))
  found = mixed.runs(prompt)
  assert [run.tokens for run in found] == [
    (special.bos, 0, 1, special.boi),
    (special.eoi, 2, special.boi),
    (special.eoi,),
  ]
  np.testing.assert_array_equal(found[0].picture, tiny.picture(1))
  np.testing.assert_array_equal(found[1].picture, tiny.picture(2))
  assert found[2].picture is None
  assert mixed.runs(tiny.prompt())[0].tokens == (special.bos,)


def test_pictures_are_pixels_that_depend_on_prompt_and_key_alone():
  writer = tiny.writer()
  drawn = writer.draw(['a b', 'c', ''], keys(3), SAMPLING)
  assert drawn.shape == (3, 4, 4, 3)
  assert drawn.dtype == np.uint8
  alone = writer.draw(['c'], keys(3)[1:2], SAMPLING)
  assert np.abs(drawn[1].astype(int) - alone[0].astype(int)).max() <= 1
  assert not np.array_equal(drawn[0], drawn[1])


def test_captions_are_words_and_do_not_depend_on_the_batch():
  writer = tiny.writer()
  pictures = [tiny.picture(k) for k in range(4)]
  captions = writer.caption(pictures, limit=6)
  assert all(set(c.split()) <= set(tiny.WORDS) for c in captions)
  assert all(len(c.split()) <= 6 for c in captions)
  assert writer.caption(pictures[2:3], limit=6) == captions[2:3]


def test_a_caption_ends_with_the_context():
  captions = tiny.writer().caption([tiny.picture(0)], limit=10_000)
  assert len(captions[0].split()) <= tiny.LENGTH - tiny.PATCHES - 3


@pytest.mark.parametrize('words', [tiny.LENGTH, tiny.LENGTH - tiny.PATCHES - 1])
def test_a_prompt_that_leaves_no_room_for_its_picture_is_an_error(words):
  with pytest.raises(ValueError, match='expected prompts of at most'):
    tiny.writer().draw([' '.join(['a'] * words)], keys(1), SAMPLING)


def test_a_prompt_with_just_enough_room_is_drawn():
  words = ' '.join(['a'] * (tiny.LENGTH - tiny.PATCHES - 2))
  drawn = tiny.writer().draw([words], keys(1), SAMPLING)
  session = tiny.writer().read([tiny.LAYOUT.picture_prompt(words)])
  null = tiny.writer().read([tiny.LAYOUT.null()])
  # With more room the picture is the same: nothing was shifted at the end.
  roomy = mixed.dataclasses.replace(tiny.writer(), context=tiny.LENGTH + 8)
  again = roomy.draw([words], keys(1), SAMPLING)
  assert np.abs(drawn.astype(int) - again.astype(int)).max() <= 1
  assert int(session.length[0]) == tiny.LENGTH - tiny.PATCHES
  assert int(null.length[0]) == 2


def test_free_continuations_switch_modes_within_the_context():
  writer = tiny.writer()
  prompts = [
    tiny.prompt(),
    tiny.prompt(tiny.text('a b')),
    tiny.prompt(tiny.image(1)),
  ] * 2
  rows = writer.go_on(prompts, keys(6, 1), SAMPLING, temperature=1.5, pictures=2)
  kinds = [''.join('t' if p.picture is None else 'p' for p in row) for row in rows]
  assert any('pt' in kind for kind in kinds), kinds  # text went on behind a picture
  for prompt, row, kind in zip(prompts, rows, kinds, strict=True):
    assert 'tt' not in kind
    assert kind.count('p') <= 2
    words = sum(len(p.text.split()) for p in row if p.text)
    pictures = kind.count('p') * (tiny.PATCHES + 2)
    assert len(prompt) + words + pictures <= tiny.LENGTH
    assert all(p.picture.shape == (4, 4, 3) for p in row if p.picture is not None)
  again = writer.go_on(prompts, keys(6, 1), SAMPLING, temperature=1.5, pictures=2)
  assert [[p.text for p in row] for row in rows] == [
    [p.text for p in row] for row in again
  ]


def test_the_picture_of_a_continuation_is_that_of_its_prefix():
  """Mode switch: what is drawn behind written text is what `draw` draws behind it."""
  writer = tiny.writer()
  rows = writer.go_on(
    [tiny.prompt()] * 4, keys(4, 1), SAMPLING, temperature=1.5, pictures=1
  )
  opened = [k for k, row in enumerate(rows) if any(p.picture is not None for p in row)]
  assert opened
  for k in opened:
    words = rows[k][0].text or ''
    fresh = jax.random.split(jax.random.fold_in(keys(4, 1)[k], 0))[1]
    drawn = writer.draw([words], jnp.expand_dims(fresh, 0), SAMPLING)
    found = next(p.picture for p in rows[k] if p.picture is not None)
    assert np.abs(drawn[0].astype(int) - found.astype(int)).max() <= 1


def test_no_picture_is_written_where_none_is_wanted():
  rows = tiny.writer().go_on(
    [tiny.prompt()] * 6, keys(6, 1), SAMPLING, temperature=1.5, pictures=0
  )
  assert all(p.picture is None for row in rows for p in row)
