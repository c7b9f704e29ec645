"""From logits to tokens."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from transfusion_jax.core import tree


@dataclasses.dataclass(frozen=True)
class TextSampling:
  """Settings for sampling text.

  Attributes:
    temperature: divides the logits; 0 takes the likeliest token.
    top_k: so many of the likeliest tokens may be drawn; 0 is all.
    top_p: the likeliest tokens that have this probability together (Holtzman et al.,
      2020); 1 is all.
    min_p: tokens this many times as likely as the likeliest (Nguyen et al., 2024); 0 is
      all.
    limit: most tokens that are written.
  """

  temperature: float
  top_k: int
  top_p: float
  min_p: float
  limit: int

  def __post_init__(self):
    ranges = {
      'temperature': (0.0, float('inf')),
      'top_k': (0, float('inf')),
      'top_p': (0.0, 1.0),
      'min_p': (0.0, 1.0),
      'limit': (0, float('inf')),
    }
    for name, (low, high) in ranges.items():
      value = getattr(self, name)
      if not low <= value <= high or (name == 'top_p' and value == 0):
        raise ValueError(
          f'expected {name} from {low} to {high}, found {value}; change --{name}'
        )


GREEDY = TextSampling(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, limit=2**30)
"""The likeliest token, until the document ends or the context is full."""


@tree.struct
class Choices:
  """`TextSampling` of every row."""

  temperature: Float[Array, ' b']
  top_k: Int[Array, ' b']
  top_p: Float[Array, ' b']
  min_p: Float[Array, ' b']


def choose(
  keys: Key[Array, ' b'],
  logits: Float[Array, 'b v'],
  choices: Choices,
  *,
  filtered: bool,
) -> Int[Array, ' b']:
  """The next token of every row: the best at temperature 0, else drawn.

  Args:
    keys: one random key per row.
    logits: of the next token; minus infinity for what may not be chosen.
    choices: how each row draws.
    filtered: whether any row leaves out unlikely tokens, for which logits are sorted.
  """
  greedy = choices.temperature == 0
  scaled = logits / jnp.where(greedy, 1.0, choices.temperature)[:, None]
  if filtered:
    scaled = jnp.where(_likely(scaled, choices), scaled, -jnp.inf)
  drawn = jax.vmap(jax.random.categorical)(keys, scaled)
  return jnp.where(greedy, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)


def _likely(scaled: Float[Array, 'b v'], choices: Choices) -> Bool[Array, 'b v']:
  """Tokens that pass all three filters; the likeliest always does.

  Probabilities of `top_p` are those after `top_k`.
  """
  ordered = -jnp.sort(-scaled, axis=-1)
  rank = jnp.arange(scaled.shape[1])[None]
  few = jnp.where(choices.top_k > 0, choices.top_k, scaled.shape[1])[:, None]
  share = jax.nn.softmax(jnp.where(rank < few, ordered, -jnp.inf), axis=-1)
  before = jnp.cumsum(share, axis=-1) - share
  kept = (rank < few) & (before < choices.top_p[:, None])
  kept &= share >= choices.min_p[:, None] * share[:, :1]
  least = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
  return scaled >= least
