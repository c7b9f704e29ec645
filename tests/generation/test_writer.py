"""Prompts of both kinds in, continuations of both kinds out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.core import axes
from transfusion_jax.generation import engine, mixed, programs, requests
from transfusion_jax.generation import logits as logits_lib
from transfusion_jax.training import mesh

SAMPLING = tiny.image_sampling()
FREE = logits_lib.TextSampling(1.5, 0, 1.0, 0.0, limit=2**20)
LIMIT = 8


def keys(count, seed=0):
  return jax.random.split(jax.random.key(seed), count)


def prompts():
  return [
    tiny.prompt(tiny.text('a b c d e')),
    tiny.prompt(tiny.image(2), tiny.text('i j')),
    tiny.prompt(tiny.text('f'), tiny.image(5), tiny.text('a')),
  ]


def by_full_forwards(prompt, limit=LIMIT):
  """Greedy words with a full forward pass for every token, and whether EOS came."""
  words = []
  for _ in range(limit):
    logits = tiny.read_whole([tiny.longer(prompt, words)])[0][0]
    allowed = [*range(16), tiny.SPECIAL.eos, tiny.SPECIAL.boi]
    best = allowed[int(np.argmax(logits[allowed]))]
    if best >= 16:
      return tiny.TOKENIZER.decode(words)
    words.append(best)
  return tiny.TOKENIZER.decode(words)


def test_greedy_text_equals_full_forwards():
  found = tiny.writer().complete(prompts(), None, logits_lib.GREEDY, limit=LIMIT)
  assert found == [by_full_forwards(prompt) for prompt in prompts()]
  assert len(set(found)) > 1


def test_text_does_not_depend_on_the_batch():
  together = tiny.writer().complete(prompts(), keys(3), FREE, limit=LIMIT)
  for row, prompt in enumerate(prompts()):
    alone = tiny.writer().complete([prompt], keys(3)[row : row + 1], FREE, limit=LIMIT)
    assert alone == together[row : row + 1]
  other = tiny.writer().complete(prompts(), keys(3, 1), FREE, limit=LIMIT)
  assert other != together


def test_rows_have_limits_and_temperatures_of_their_own():
  """Each row of a mixed batch says what it says alone."""
  texts = [
    logits_lib.TextSampling(0.0, 0, 1.0, 0.0, limit=5),
    logits_lib.TextSampling(3.0, 0, 1.0, 0.0, limit=2),
    logits_lib.TextSampling(2.0, 3, 0.9, 0.0, limit=6),
  ]
  asked = [
    requests.Request(prompt, key, text, pictures=0)
    for prompt, key, text in zip(prompts(), keys(3), texts, strict=True)
  ]
  together = tiny.writer().write(asked, SAMPLING)
  alone = [tiny.writer().write([request], SAMPLING)[0] for request in asked]
  assert [[p.text for p in row] for row in together] == [
    [p.text for p in row] for row in alone
  ]
  assert len(together[1][0].text.split()) <= 2


def test_stop_strings_end_text_before_them():
  whole = tiny.writer().complete(prompts() * 3, keys(9), FREE)
  words = max(whole, key=len).split()
  assert len(words) > 3
  stop = ' '.join(words[1:3])
  found = tiny.writer().complete(prompts() * 3, keys(9), FREE, stop=(stop, 'zebra'))
  assert found == [text.split(stop)[0] for text in whole]
  assert found != whole


def test_pictures_are_pixels_that_depend_on_prompt_and_key_alone():
  writer = tiny.writer()
  drawn = writer.draw(['a b', 'c', ''], keys(3), SAMPLING)
  assert drawn.shape == (3, 4, 4, 3)
  assert drawn.dtype == np.uint8
  alone = writer.draw(['c'], keys(3)[1:2], SAMPLING)
  assert np.abs(drawn[1].astype(int) - alone[0].astype(int)).max() <= 1
  assert not np.array_equal(drawn[0], drawn[1])


def test_rows_that_draw_a_few_at_a_time_draw_the_same(monkeypatch):
  prompts = ['a b', 'c', '', 'd e f', 'g']
  whole = tiny.writer().draw(prompts, keys(5), SAMPLING)
  monkeypatch.setattr(mixed, '_BUSY', 2 * 2 * tiny.PATCHES)
  programs.on_mesh.cache_clear()  # what is compiled depends on it
  few = tiny.writer().draw(prompts, keys(5), SAMPLING)
  programs.on_mesh.cache_clear()
  assert mixed.group(tiny.PATCHES, guided=True) == 2
  assert np.abs(few.astype(int) - whole.astype(int)).max() <= 1


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
  # With more room the picture is the same: nothing was shifted at the end.
  roomy = tiny.replaced(tiny.writer(), context=tiny.LENGTH + 8)
  again = roomy.draw([words], keys(1), SAMPLING)
  assert np.abs(drawn.astype(int) - again.astype(int)).max() <= 1


def told(rows):
  return [[p.text for p in row] for row in rows]


def free(seed, pictures, prompts=((),) * 6, writer=None):
  writer = writer or tiny.writer()
  return writer.interleave(prompts, keys(6, seed), SAMPLING, FREE, pictures=pictures)


def test_free_continuations_switch_modes_within_the_context():
  beginnings = [(), (tiny.text('a b'),), (tiny.image(1),)] * 2
  rows = free(1, 2, beginnings)
  kinds = [''.join('t' if p.picture is None else 'p' for p in row) for row in rows]
  assert any('pt' in kind for kind in kinds), kinds  # text went on behind a picture
  for beginning, row, kind in zip(beginnings, rows, kinds, strict=True):
    assert 'tt' not in kind
    assert kind.count('p') <= 2
    words = sum(len(p.text.split()) for p in row if p.text)
    pictures = kind.count('p') * (tiny.PATCHES + 2)
    assert len(tiny.prompt(*beginning)) + words + pictures <= tiny.LENGTH
    assert all(p.picture.shape == (4, 4, 3) for p in row if p.picture is not None)
  assert told(rows) == told(free(1, 2, beginnings))


def test_documents_in_different_modes_are_each_what_they_are_alone():
  """A drawing, a caption and free documents in one batch, and each by itself."""
  picture = tiny.LAYOUT.picture_prompt('a b')
  none = logits_lib.TextSampling(0.0, 0, 1.0, 0.0, limit=0)
  short = logits_lib.TextSampling(0.0, 0, 1.0, 0.0, limit=5)
  kinds = [
    (picture, none, 1),
    (tiny.LAYOUT.caption_prompt(tiny.picture(3)), short, 0),
    (tiny.prompt(), FREE, 2),
    (tiny.prompt(tiny.text('c')), FREE, 1),
  ]
  for seed in range(3):
    asked = [
      requests.Request(prompt, key, text, count)
      for (prompt, text, count), key in zip(kinds, keys(4, seed), strict=True)
    ]
    together = tiny.writer().write(asked, SAMPLING)
    alone = [tiny.writer().write([each], SAMPLING)[0] for each in asked]
    assert told(together) == told(alone)
    for row, single in zip(together, alone, strict=True):
      for a, b in zip(row, single, strict=True):
        if a.picture is not None:
          assert np.abs(a.picture.astype(int) - b.picture.astype(int)).max() <= 1


def test_looking_for_stop_strings_changes_nothing_else(monkeypatch):
  """Rows then wait in the middle of a text while others draw."""
  asked = [requests.Request(tiny.prompt(), key, FREE, pictures=2) for key in keys(6, 1)]
  whole = tiny.writer().write(asked, SAMPLING)
  monkeypatch.setattr(engine, '_STRIDE', 2)
  found = tiny.writer().write(asked, SAMPLING, stop=('zebra',))
  assert told(found) == told(whole)
  assert any(p.picture is not None for row in found for p in row)


def test_a_mesh_that_divides_positions_writes_the_same():
  """Training leaves its mesh to the evaluators: one query decodes, four denoise."""
  sizes = mesh.MeshConfig(data=1, fsdp=1, sequence=2, tensor=1)
  devices = mesh.make(sizes, jax.devices()[:2])
  whole = axes.replicated(devices)
  model, codec = jax.device_put((tiny.model(), tiny.writer().codec), whole)
  divided = tiny.replaced(tiny.writer(), model=model, codec=codec)
  assert divided.mesh == devices
  beginnings = [(), (tiny.text('a b'),), (tiny.image(1),)] * 2
  rows, expected = (free(1, 2, beginnings, one) for one in (divided, tiny.writer()))
  assert told(rows) == told(expected)
  assert any(None in row for row in told(rows))
  for piece, other in zip(sum(rows, []), sum(expected, []), strict=True):
    if piece.picture is not None:
      assert np.abs(piece.picture.astype(int) - other.picture).max() <= 1


def test_what_stands_behind_a_picture_is_what_follows_it_clean():
  """Mode switch: greedy text behind a drawn picture equals full forwards behind it."""
  writer = tiny.writer()
  text = logits_lib.TextSampling(0.0, 0, 1.0, 0.0, limit=6)
  request = requests.Request(tiny.LAYOUT.picture_prompt('a b'), keys(1)[0], text, 1)
  first, *rest = writer.write([request], SAMPLING)[0]
  plan = writer._plan([request], SAMPLING, None)
  rows, params = writer._begin([request], plan, 0)
  rows = mixed.write(
    writer.model, rows, params, None, jnp.int32(9), jnp.int32(99), plan
  )
  latents = np.asarray(rows.latents)[0, 0]
  whole = tiny.alone([tiny.prompt(tiny.text('a b'), tiny.image(0))])
  images = whole.images.at[0, 0].set(latents)
  logits, _ = tiny.forward(
    tiny.model(), whole, images, jnp.zeros(whole.noise_cap.shape)
  )
  last = len(tiny.prompt(tiny.text('a b'), tiny.image(0))) - 1
  allowed = [*range(16), tiny.SPECIAL.eos, tiny.SPECIAL.boi]
  best = allowed[int(np.argmax(np.asarray(logits)[0, last][allowed]))]
  assert int(rows.tokens[0, 0]) == best
  assert first.picture is not None
  assert (not rest) == (best >= 16)


def test_no_picture_is_written_where_none_is_wanted():
  assert all(p.picture is None for row in free(1, 0) for p in row)


def test_scores_are_those_of_words():
  found = tiny.writer().score(prompts(), ['a b', 'c', 'd e f'])
  again = tiny.writer().score(prompts()[1:2], [[2]])
  assert [each.tokens for each in found] == [2, 1, 3]
  np.testing.assert_allclose(found[1].nats, again[0].nats, atol=1e-5)
  greedy = tiny.writer().complete(prompts(), None, logits_lib.GREEDY, limit=3)
  assert all(each.greedy for each in tiny.writer().score(prompts(), greedy))
  with pytest.raises(ValueError, match='a prompt and a continuation of at most'):
    tiny.writer().score(prompts()[:1], ['a ' * tiny.LENGTH])


def test_inpainting_keeps_every_known_pixel():
  pictures = [tiny.picture(1), tiny.picture(2)]
  masks = [np.zeros((4, 4), bool), np.ones((4, 4), bool)]
  masks[0][:, :2] = True
  found = tiny.writer().inpaint(['a', 'b'], pictures, masks, keys(2), SAMPLING)
  np.testing.assert_array_equal(found[0][:, 2:], pictures[0][:, 2:])
  assert not np.array_equal(found[0][:, :2], pictures[0][:, :2])
  free = tiny.writer().draw(['a', 'b'], keys(2), SAMPLING)
  assert np.abs(found[1].astype(int) - free[1].astype(int)).max() <= 1


def test_variations_edits_and_answers_are_what_their_prompts_say():
  writer, picture = tiny.writer(), tiny.picture(1)
  near = writer.vary(['a'], [picture], keys(1), SAMPLING, strength=0.01)
  assert np.abs(near[0].astype(int) - picture.astype(int)).mean() < 5
  edited = writer.edit([picture], ['b c'], keys(1), SAMPLING)
  image = tiny.image(1, learn=False, noise_cap=0.0)
  prompt = tiny.prompt(image, tiny.text('b c', learn=False), open_image=True)
  np.testing.assert_array_equal(edited, writer.draw_after([prompt], keys(1), SAMPLING))
  question = tiny.prompt(image, tiny.text('d', learn=False))
  assert writer.answer([picture], ['d']) == writer.complete(
    [question], None, logits_lib.GREEDY
  )


@pytest.mark.parametrize('strength', [0.0, 1.1])
def test_a_strength_that_means_nothing_is_refused(strength):
  with pytest.raises(ValueError, match='expected a strength'):
    tiny.writer().vary(['a'], [tiny.picture(1)], keys(1), SAMPLING, strength=strength)


def test_a_mask_of_another_size_is_refused():
  with pytest.raises(ValueError, match='expected a mask of'):
    requests.Given([tiny.picture(1)], [np.ones((2, 2), bool)], strength=1.0)


def test_a_model_of_text_alone_says_that_it_has_no_pictures():
  writer = tiny.replaced(tiny.writer(), codec=None)
  with pytest.raises(ValueError, match='expected text alone'):
    writer.draw(['a'], keys(1), SAMPLING)
  assert writer.complete(prompts()[:1], None, logits_lib.GREEDY, limit=3)
