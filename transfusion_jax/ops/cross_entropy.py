"""Cross-entropy of next-token prediction, in float32."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
  logits: Float[Array, '*b v'], targets: Int[Array, '*b']
) -> Float[Array, '*b']:
  """Negative log-likelihood of each target, in nats."""
  logits = logits.astype(jnp.float32)
  chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return jax.nn.logsumexp(logits, axis=-1) - chosen
