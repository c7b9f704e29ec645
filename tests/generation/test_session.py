"""Cached reading equals the full forward pass: text, images, and switching modes."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.support import tiny
from transfusion_jax.core import tree
from transfusion_jax.generation import session as session_lib

READ_TEXT = jax.jit(session_lib.read_text)
READ_IMAGE = jax.jit(session_lib.read_image)
DENOISE = jax.jit(session_lib.denoise)


def prompts():
  """Rows of different lengths that switch modes at different places."""
  return [
    tiny.prompt(tiny.text('a b c d e')),
    tiny.prompt(tiny.image(2), tiny.text('i j')),
    tiny.prompt(
      tiny.text('m n'),
      tiny.image(3),
      tiny.text('o p a'),
      tiny.image(4),
      tiny.text('b c'),
    ),
    tiny.prompt(tiny.text('f'), tiny.image(5)),
  ]


def latents(seed, rows=4):
  return jax.random.normal(jax.random.key(seed), (rows, 4, 4, 3))


def seen(session, row):
  """All that later reading can depend on."""
  length = int(session.length[row])
  kept = [array for layer in session.cache for array in (layer.k, layer.v)]
  return [np.asarray(array)[row, :, :length] for array in kept]


def test_reading_prompts_equals_the_full_forward():
  session = tiny.writer().read(prompts())
  expected, _ = tiny.read_whole(prompts())
  np.testing.assert_array_equal(session.length, [len(one) for one in prompts()])
  np.testing.assert_allclose(session.logits, expected[:4], atol=3e-5)


def test_a_batch_equals_its_rows_alone():
  together = tiny.writer().read(prompts())
  for row, one in enumerate(prompts()):
    alone = tiny.writer().read([one])
    np.testing.assert_allclose(together.logits[row], alone.logits[0], atol=2e-5)
    for a, b in zip(seen(together, row), seen(alone, 0), strict=True):
      np.testing.assert_allclose(a, b, atol=2e-5)


def test_denoising_behind_a_prefix_equals_the_full_forward():
  """At t, behind clean images, in rows of different lengths."""
  opened = [
    tiny.prompt(tiny.text('a b'), open_image=True),
    tiny.prompt(tiny.text('c'), tiny.image(1), tiny.text('d e'), open_image=True),
    tiny.prompt(open_image=True),
  ]
  whole = [
    tiny.prompt(tiny.text('a b'), tiny.image(8)),
    tiny.prompt(tiny.text('c'), tiny.image(1), tiny.text('d e'), tiny.image(8)),
    tiny.prompt(tiny.image(8)),
  ]
  t = np.zeros((8, tiny.SLOTS), np.float32)
  t[0, 0] = t[1, 1] = t[2, 0] = 0.4
  _, expected = tiny.read_whole(whole, jnp.asarray(t))
  picture = tiny.alone(whole).images[jnp.array([0, 1, 2]), jnp.array([0, 1, 0])]
  session = tiny.writer().read(opened)
  found, _ = DENOISE(tiny.model(), session, picture, jnp.full(3, 0.4))
  np.testing.assert_allclose(found, expected[[0, 1, 2], [0, 1, 0]], atol=3e-5)


def test_a_read_picture_stands_clean_in_what_follows():
  """Text, image, text: written piece by piece equals a full forward at t = 0."""
  session = tiny.writer().read([tiny.prompt(tiny.text('a b'), open_image=True)])
  picture = tiny.alone([tiny.prompt(tiny.image(8))]).images[:1, 0]
  # Looks at other levels on the way leave nothing behind.
  DENOISE(tiny.model(), session, picture + 1.0, jnp.full(1, 0.9))
  session = READ_IMAGE(tiny.model(), session, picture, jnp.ones(1, bool))
  tail = tiny.TOKENIZER.encode('c d')
  tokens = jnp.array([[tiny.SPECIAL.eoi, *tail]], jnp.int32)
  session = READ_TEXT(tiny.model(), session, tokens, jnp.array([3], jnp.int32))
  whole = [tiny.prompt(tiny.text('a b'), tiny.image(8), tiny.text('c d'))]
  np.testing.assert_allclose(session.logits, tiny.read_whole(whole)[0], atol=3e-5)
  noisy, _ = tiny.read_whole(whole, jnp.full((8, tiny.SLOTS), 0.3))
  assert np.abs(np.asarray(session.logits) - noisy)[:, : tiny.USED].max() > 1e-3


def test_rows_that_wait_are_unchanged():
  session = tiny.writer().read(prompts(), room=8)
  for rows in ([0, 1], []):
    active = jnp.isin(jnp.arange(4), jnp.array(rows, jnp.int32))
    count = active.astype(jnp.int32)
    for after in (
      READ_IMAGE(tiny.model(), session, latents(0), active),
      READ_TEXT(tiny.model(), session, jnp.full((4, 8), 3, jnp.int32), count * 2),
    ):
      for row in range(4):
        if row not in rows:
          assert int(after.length[row]) == int(session.length[row])
          np.testing.assert_array_equal(after.logits[row], session.logits[row])
          for a, b in zip(seen(after, row), seen(session, row), strict=True):
            np.testing.assert_array_equal(a, b)
        else:
          assert int(after.length[row]) > int(session.length[row])


def test_a_prompt_read_in_parts_equals_the_full_forward():
  """Text, then a picture, then text in two stretches, the last one padded."""
  one = tiny.prompt(tiny.image(2), tiny.text('i j k l a b'))
  start, rest = one.tokens[6:-2], one.tokens[-2:]
  session = session_lib.start(tiny.model(), batch=1, length=len(one) + 8)
  head = jnp.asarray(one.tokens[None, :2])
  session = READ_TEXT(tiny.model(), session, head, jnp.array([2], jnp.int32))
  picture = tiny.alone([one]).images[:1, 0]
  session = READ_IMAGE(tiny.model(), session, picture, jnp.ones(1, bool))
  for part in (start, rest):
    wide = np.full((1, 8), tiny.SPECIAL.pad, np.int32)
    wide[0, : len(part)] = part
    count = jnp.array([len(part)], jnp.int32)
    session = READ_TEXT(tiny.model(), session, jnp.asarray(wide), count)
  np.testing.assert_allclose(session.logits, tiny.read_whole([one])[0], atol=3e-5)


def test_scores_equal_the_full_forward():
  """Behind prompts of all kinds, and of continuations of different lengths."""
  tails = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [0, 0]]
  width = 8
  tokens, count = np.zeros((4, width), np.int32), np.array([len(t) for t in tails])
  for row, tail in zip(tokens, tails, strict=True):
    row[: len(tail)] = tail
  session = tiny.writer().read(prompts(), room=width)
  nats, greedy = jax.jit(session_lib.score)(
    tiny.model(), session, tokens, count.astype(np.int32)
  )
  for row, (prompt, tail) in enumerate(zip(prompts(), tails, strict=True)):
    expected, best = 0.0, True
    for length, token in enumerate(tail):
      logits = tiny.read_whole([tiny.longer(prompt, tail[:length])])[0][0]
      expected -= float(jax.nn.log_softmax(logits)[token])
      best &= int(np.argmax(logits)) == token
    np.testing.assert_allclose(nats[row], expected, atol=1e-4)
    assert bool(greedy[row]) == best


def test_what_lies_beyond_the_length_is_never_seen():
  session = tiny.writer().read(prompts(), room=8)
  beyond = jnp.arange(session.room)[None] >= session.length[:, None]
  poison = jax.tree.map(
    lambda c: jnp.where(beyond[:, None, :, None], 1e6, c), session.cache
  )
  poisoned = tiny.replaced(session, cache=poison)
  t = jnp.full(4, 0.5)
  found, _ = DENOISE(tiny.model(), poisoned, latents(0), t)
  expected, after = DENOISE(tiny.model(), session, latents(0), t)
  np.testing.assert_array_equal(after.length, session.length)
  np.testing.assert_array_equal(found, expected)
  tokens, count = jnp.full((4, 8), 3, jnp.int32), jnp.array([1, 0, 2, 8], jnp.int32)
  a = READ_TEXT(tiny.model(), session, tokens, count)
  b = READ_TEXT(tiny.model(), poisoned, tokens, count)
  np.testing.assert_array_equal(a.logits, b.logits)


def test_a_denoising_step_computes_the_patches_and_nothing_of_the_prefix():
  """The prefix reaches a step through the cache alone, which nothing recomputes."""
  session = tiny.writer().read(prompts())
  traced = jax.make_jaxpr(session_lib.denoise)(
    tiny.model(), session, latents(0), jnp.full(4, 0.5)
  )
  assert f'f32[4,{tiny.PATCHES},16]' in str(traced)  # hidden states of the patches
  assert f'f32[4,{tiny.LENGTH},16]' not in str(traced)
  other = tiny.replaced(session, cache=jax.tree.map(lambda c: c * 1.1, session.cache))
  t = jnp.full(4, 0.5)
  found, _ = DENOISE(tiny.model(), other, latents(0), t)
  assert not np.allclose(found, DENOISE(tiny.model(), session, latents(0), t)[0])


def test_join_puts_rows_behind_each_other():
  a, b = (tiny.writer().read([one]) for one in prompts()[:2])
  both = session_lib.join(a, b)
  assert both.length.tolist() == [len(one) for one in prompts()[:2]]
  for row, single in enumerate((a, b)):
    for x, y in zip(seen(both, row), seen(single, 0), strict=True):
      np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(both.logits[row], single.logits[0])
  assert tree.size(both) == tree.size(a) + tree.size(b)


def test_take_gives_the_rows_asked_for():
  session = tiny.writer().read(prompts())
  some = session_lib.take(session, jnp.array([2, 0]))
  assert some.length.tolist() == [len(prompts()[2]), len(prompts()[0])]
  for x, y in zip(seen(some, 0), seen(session, 2), strict=True):
    np.testing.assert_array_equal(x, y)
