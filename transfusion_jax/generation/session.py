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
  """What was read.

  Attributes:
    cache: keys and values of all layers, [l, b, g, s, d].
    length: positions read, by row.
    logits: of the next token of every row.
  """

  cache: cache_lib.LayerCache
  length: Int[Array, ' b']
  logits: Float[Array, 'b v']


def start(model: transfusion.Transfusion, *, batch: int, length: int) -> Session:
  """Empty rows with room for `length` positions each."""
  return Session(
    cache=model.empty_cache(batch=batch, length=length),
    length=jnp.zeros((batch,), jnp.int32),
    logits=jnp.zeros((batch, model.table), jnp.float32),
  )


def read_text(
  model: transfusion.Transfusion,
  session: Session,
  tokens: Int[Array, 'b t'],
  count: Int[Array, ' b'],
) -> Session:
  """Reads the first `count` tokens of every row; a row with count 0 stays as it is."""
  b, t = tokens.shape
  offset = jnp.arange(t, dtype=jnp.int32)[None]
  position = session.length[:, None] + offset
  end = jnp.where(offset < count[:, None], position + 1, 0)
  span = span_lib.Span(jnp.zeros((b, t), jnp.int32), end)
  logits, cache = model.read_text(tokens, position, span, session.cache, session.length)
  last = jnp.take_along_axis(logits, jnp.maximum(count - 1, 0)[:, None, None], axis=1)
  logits = jnp.where((count > 0)[:, None], last[:, 0], session.logits)
  return Session(cache, session.length + count, logits)


def read_image(
  model: transfusion.Transfusion,
  session: Session,
  images: Float[Array, 'b h w c'],
  active: Bool[Array, ' b'],
) -> Session:
  """Enters clean pictures (noise level 0) into the rows that are active."""
  t = jnp.zeros(images.shape[:1], jnp.float32)
  _, cache = denoise(model, session, images, t)
  count = jnp.where(active, model.patches(images.shape[1:3]), 0).astype(jnp.int32)
  return Session(cache, session.length + count, session.logits)


def denoise(
  model: transfusion.Transfusion,
  session: Session,
  images: Float[Array, 'b h w c'],
  t: Float[Array, ' b'],
) -> tuple[Float[Array, 'b h w c'], cache_lib.LayerCache]:
  """One look at pictures standing at the end of every row, at noise level `t`.

  The rows' lengths stay: the next look overwrites the same positions.
  """
  n = model.patches(images.shape[1:3])
  b = images.shape[0]
  position = session.length[:, None] + jnp.arange(n, dtype=jnp.int32)[None]
  end = jnp.broadcast_to(session.length[:, None] + n, (b, n))
  span = span_lib.Span(jnp.zeros((b, n), jnp.int32), end)
  return model.read_image(images, t, position, span, session.cache, session.length)


def join(first: Session, second: Session) -> Session:
  """Both sessions' rows in one batch."""
  cache = jax.tree.map(
    lambda a, b: jnp.concatenate([a, b], axis=1), first.cache, second.cache
  )
  return Session(
    cache,
    jnp.concatenate([first.length, second.length]),
    jnp.concatenate([first.logits, second.logits]),
  )
