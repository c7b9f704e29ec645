"""Writing text: greedy equals the full forward, and nothing disallowed is chosen."""

import jax
import jax.numpy as jnp
import numpy as np

from tests import tiny
from transfusion_jax.generation import logits as logits_lib
from transfusion_jax.generation import text

LIMIT = 8


def prompts():
  return [
    tiny.prompt(tiny.text('a b c d e')),
    tiny.prompt(tiny.image(2), tiny.text('i j')),
    tiny.prompt(tiny.text('f'), tiny.image(5), tiny.text('a')),
  ]


def write(session, active, allowed, *, stops, temperature=0.0, seed=0, limit=LIMIT):
  keys = jax.random.split(jax.random.key(seed), len(active))
  return text.write_text(
    tiny.model(),
    session,
    keys,
    jnp.asarray(active),
    jnp.asarray(allowed),
    limit=limit,
    width=limit,
    stops=stops,
    temperature=temperature,
  )


def only(*tokens):
  allowed = np.zeros(tiny.TABLE, bool)
  allowed[list(tokens)] = True
  return allowed


def by_full_forwards(prompt, allowed, stops):
  """The same greedy choice with a full forward pass for every token."""
  written, segments = [], []
  tokens = prompt
  for _ in range(LIMIT):
    logits, _ = tiny.read_whole([tokens])
    best = int(np.argmax(np.where(allowed, logits[0], -np.inf)))
    written.append(best)
    if best in stops:
      break
    segments.append(best)
    tokens = longer(prompt, segments)
  return written + [-1] * (LIMIT - len(written))


def longer(prompt, words):
  """A prompt with word tokens behind it."""
  n, count = len(prompt), len(words)
  tail = np.arange(n, n + count, dtype=np.int32)
  return tiny.replaced(
    prompt,
    tokens=np.concatenate([prompt.tokens, np.array(words, np.int32)]),
    targets=np.concatenate(
      [prompt.targets, np.full(count, tiny.SPECIAL.pad, np.int32)]
    ),
    weight=np.concatenate([prompt.weight, np.zeros(count, np.float32)]),
    position=np.concatenate([prompt.position, tail]),
    end=np.concatenate([prompt.end, tail + 1]),
    slot=np.concatenate([prompt.slot, np.full(count, -1, np.int32)]),
  )


def test_greedy_writing_equals_full_forwards_and_stops():
  allowed = only(*range(16), tiny.SPECIAL.eos)
  session = tiny.writer().read(prompts())
  free, tokens = write(session, [True] * 3, allowed, stops=(tiny.SPECIAL.eos,))
  expected = [by_full_forwards(p, allowed, (tiny.SPECIAL.eos,)) for p in prompts()]
  np.testing.assert_array_equal(tokens, expected)
  # Again, with a token as stop that a row writes in its middle.
  stop = expected[0][2]
  after, tokens = write(session, [True] * 3, allowed, stops=(stop,))
  rows = np.asarray(tokens)
  first = expected[0].index(stop)
  assert rows[0].tolist() == expected[0][: first + 1] + [-1] * (LIMIT - first - 1)
  assert int(after.length[0]) == len(prompts()[0]) + first  # the stop is not read
  assert int(free.length[0]) >= int(after.length[0])


def test_rows_that_are_not_active_are_left_alone():
  session = tiny.writer().read(prompts())
  allowed = only(*range(16))
  after, tokens = write(session, [True, False, True], allowed, stops=())
  assert (np.asarray(tokens)[1] == -1).all()
  assert int(after.length[1]) == int(session.length[1])
  np.testing.assert_array_equal(after.logits[1], session.logits[1])
  both, all_tokens = write(session, [True] * 3, allowed, stops=())
  np.testing.assert_array_equal(
    np.asarray(tokens)[[0, 2]], np.asarray(all_tokens)[[0, 2]]
  )
  np.testing.assert_allclose(both.logits[0], after.logits[0], atol=1e-5)


def test_only_allowed_tokens_are_drawn_and_a_row_does_not_depend_on_its_batch():
  allowed = only(3, 5, tiny.SPECIAL.eos)
  session = tiny.writer().read(prompts())
  _, tokens = write(
    session, [True] * 3, allowed, stops=(tiny.SPECIAL.eos,), temperature=5.0
  )
  rows = np.asarray(tokens)
  assert set(rows.ravel().tolist()) <= {3, 5, tiny.SPECIAL.eos, -1}
  assert len(set(map(tuple, rows.tolist()))) > 1
  keys = jax.random.split(jax.random.key(0), 3)
  _, alone = text.write_text(
    tiny.model(),
    tiny.writer().read(prompts()[1:2]),
    keys[1:2],
    jnp.ones(1, bool),
    jnp.asarray(allowed),
    limit=LIMIT,
    width=LIMIT,
    stops=(tiny.SPECIAL.eos,),
    temperature=5.0,
  )
  np.testing.assert_array_equal(alone[0], rows[1])


def test_choose_follows_the_tempered_softmax():
  logits = jnp.array([0.0, 1.0, 2.0, 9.0])
  allowed = jnp.array([True, True, True, False])
  keys = jax.random.split(jax.random.key(0), 8000)
  drawn = logits_lib.choose(
    keys, jnp.tile(logits[None], (8000, 1)), allowed, temperature=2.0
  )
  share = np.bincount(np.asarray(drawn), minlength=4) / 8000
  expected = np.exp([0.0, 0.5, 1.0]) / np.exp([0.0, 0.5, 1.0]).sum()
  np.testing.assert_allclose(share[:3], expected, atol=0.02)
  assert share[3] == 0
  best = logits_lib.choose(keys[:1], logits[None], allowed, temperature=0.0)
  assert best.tolist() == [2]
