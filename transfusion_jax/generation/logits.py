"""From logits to tokens."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def choose(
  keys: Key[Array, ' b'],
  logits: Float[Array, 'b v'],
  allowed: Bool[Array, ' v'],
  *,
  temperature: float,
) -> Int[Array, ' b']:
  """The next token of every row: the best at temperature 0, else drawn.

  Args:
    keys: one random key per row.
    logits: of the next token.
    allowed: tokens that may be chosen.
    temperature: divides the logits.
  """
  logits = jnp.where(allowed[None], logits, -jnp.inf)
  if temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  draw = jax.vmap(lambda key, row: jax.random.categorical(key, row / temperature))
  return draw(keys, logits).astype(jnp.int32)
