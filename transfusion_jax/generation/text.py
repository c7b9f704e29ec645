"""Writing text: one token at a time, all rows together, until each meets a stop."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from transfusion_jax.generation import logits as logits_lib
from transfusion_jax.generation import session as session_lib
from transfusion_jax.models import transfusion


@functools.partial(jax.jit, static_argnames=('width', 'stops', 'temperature'))
def write_text(
  model: transfusion.Transfusion,
  session: session_lib.Session,
  keys: Key[Array, ' b'],
  active: Bool[Array, ' b'],
  allowed: Bool[Array, ' v'],
  *,
  limit: int | Int[Array, ''],
  width: int,
  stops: tuple[int, ...],
  temperature: float,
) -> tuple[session_lib.Session, Int[Array, 'b {width}']]:
  """Continues every active row until it chooses a stop token, or for `limit` tokens.

  Args:
    model: the model.
    session: rows whose logits are those of the next token.
    keys: one random key per row.
    active: rows to continue.
    allowed: tokens that may be chosen, the stop tokens among them.
    limit: most tokens to write, up to `width`.
    width: of what is returned; the one of both that is compiled for.
    stops: tokens that end a row; they are given but not read.
    temperature: 0 takes the best token.

  Returns:
    The session with what was written read, and the tokens; -1 after a row's end.
  """
  tokens = jnp.full((active.shape[0], width), -1, jnp.int32)

  def going(carry):
    index, _, _, active = carry
    return (index < jnp.minimum(limit, width)) & jnp.any(active)

  def body(carry):
    index, session, tokens, active = carry
    fresh = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)
    token = logits_lib.choose(fresh, session.logits, allowed, temperature=temperature)
    tokens = tokens.at[:, index].set(jnp.where(active, token, -1))
    stopped = jnp.isin(token, jnp.asarray(stops, jnp.int32))
    active = active & ~stopped
    session = session_lib.read_text(
      model, session, token[:, None], active.astype(jnp.int32)
    )
    return index + 1, session, tokens, active

  carry = (jnp.zeros((), jnp.int32), session, tokens, active)
  _, session, tokens, _ = jax.lax.while_loop(going, body, carry)
  return session, tokens
