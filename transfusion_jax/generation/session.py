"""A session: rows of documents that were read so far, in a key-value cache.

Every row holds one document. Positions that are read are entered at the row's length,
so that rows of different lengths share one batch; what lies beyond a row's length is
never seen, since every span ends before it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from transfusion_jax.core import tree
from transfusion_jax.models import cache as cache_lib
from transfusion_jax.models import transfusion
from transfusion_jax.ops import span as span_lib


@tree.struct
class Session:
  """Rows that were read.

  Attributes:
    cache: keys and values, by layer.
    length: positions read, by row.
    logits: of the next token of every row.
  """

  cache: cache_lib.Cache
  length: Int[Array, ' b']
  logits: Float[Array, 'b v']

  @property
  def room(self) -> int:
    """Positions that a row can hold."""
    return self.cache[0].k.shape[2]


@tree.struct
class Prompts:
  """Beginnings of documents, padded to one length.

  Attributes:
    tokens: text ids; anything where a picture stands and behind the end.
    slot: which patch of the row's pictures stands here (picture * n + patch), or -1.
    end: one past the last position seen.
    images: latents of the pictures.
    count: positions of every row.
  """

  tokens: Int[Array, 'b t']
  slot: Int[Array, 'b t']
  end: Int[Array, 'b t']
  images: Float[Array, 'b i h w c']
  count: Int[Array, ' b']


def start(model: transfusion.Transfusion, *, batch: int, length: int) -> Session:
  """Empty rows with room for `length` positions each."""
  return Session(
    cache=model.empty_cache(batch=batch, length=length),
    length=jnp.zeros((batch,), jnp.int32),
    logits=jnp.zeros((batch, model.table), jnp.float32),
  )


def read(model: transfusion.Transfusion, prompts: Prompts, *, length: int) -> Session:
  """Reads prompts in one go, into rows with room for `length` positions each."""
  b, t = prompts.tokens.shape
  empty = start(model, batch=b, length=length)
  position = jnp.broadcast_to(jnp.arange(t, dtype=jnp.int32)[None], (b, t))
  end = jnp.where(position < prompts.count[:, None], prompts.end, 0)
  hidden, cache = model.read(
    prompts.tokens,
    prompts.slot,
    prompts.images,
    position,
    span_lib.Span(jnp.zeros((b, t), jnp.int32), end),
    empty.cache,
    empty.length,
  )
  return _read(model, empty, hidden, cache, prompts.count)


def read_text(
  model: transfusion.Transfusion,
  session: Session,
  tokens: Int[Array, 'b t'],
  count: Int[Array, ' b'],
) -> Session:
  """Reads the first `count` tokens of every row; a row with count 0 stays as it is."""
  hidden, cache = _text(model, session, tokens, count)
  return _read(model, session, hidden, cache, count)


def score(
  model: transfusion.Transfusion,
  session: Session,
  tokens: Int[Array, 'b t'],
  count: Int[Array, ' b'],
) -> tuple[Float[Array, ' b'], Bool[Array, ' b']]:
  """Nats of the first `count` tokens of every row behind what was read.

  Returns:
    Their sum, and whether each of them was the likeliest.
  """
  hidden, _ = _text(model, session, tokens, count)
  logits = jnp.concatenate(
    [session.logits[:, None], model.logits(hidden[:, :-1])], axis=1
  )
  chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
  nats = jax.nn.logsumexp(logits, axis=-1) - chosen
  here = jnp.arange(tokens.shape[1])[None] < count[:, None]
  best = jnp.argmax(logits, axis=-1) == tokens
  return jnp.sum(jnp.where(here, nats, 0.0), axis=1), jnp.all(best | ~here, axis=1)


def read_image(
  model: transfusion.Transfusion,
  session: Session,
  images: Float[Array, 'b h w c'],
  active: Bool[Array, ' b'],
) -> Session:
  """Enters clean pictures (noise level 0) into the rows that are active."""
  t = jnp.zeros(images.shape[:1], jnp.float32)
  _, session = denoise(model, session, images, t)
  count = jnp.where(active, model.patches(images.shape[1:3]), 0).astype(jnp.int32)
  return Session(session.cache, session.length + count, session.logits)


def denoise(
  model: transfusion.Transfusion,
  session: Session,
  images: Float[Array, 'b h w c'],
  t: Float[Array, ' b'],
) -> tuple[Float[Array, 'b h w c'], Session]:
  """One look at pictures standing at the end of every row, at noise level `t`.

  The rows' lengths stay: the next look overwrites the same positions.
  """
  n = model.patches(images.shape[1:3])
  b = images.shape[0]
  position = session.length[:, None] + jnp.arange(n, dtype=jnp.int32)[None]
  end = jnp.broadcast_to(session.length[:, None] + n, (b, n))
  span = span_lib.Span(jnp.zeros((b, n), jnp.int32), end)
  made, cache = model.denoise(images, t, position, span, session.cache, session.length)
  return made, Session(cache, session.length, session.logits)


def join(first: Session, second: Session) -> Session:
  """Both sessions' rows in one batch."""
  return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)


def take(session: Session, rows: Int[Array, ' r']) -> Session:
  """Some rows of a session."""
  return jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0), session)


def _text(model, session, tokens, count):
  b, t = tokens.shape
  offset = jnp.arange(t, dtype=jnp.int32)[None]
  position = session.length[:, None] + offset
  end = jnp.where(offset < count[:, None], position + 1, 0)
  span = span_lib.Span(jnp.zeros((b, t), jnp.int32), end)
  nowhere = jnp.full((b, t), -1, jnp.int32)
  none = jnp.zeros((b, 0, 1, 1, 1), jnp.float32)
  return model.read(
    tokens, nowhere, none, position, span, session.cache, session.length
  )


def _read(model, session, hidden, cache, count):
  last = jnp.maximum(count - 1, 0)[:, None, None]
  logits = model.logits(jnp.take_along_axis(hidden, last, axis=1))[:, 0]
  logits = jnp.where((count > 0)[:, None], logits, session.logits)
  return Session(cache, session.length + count, logits)
