"""Classifier-free guidance (Ho and Salimans, 2022), rescaled (Lin et al., 2024).

g = u + s (c - u)                                                              (1)
g' = g (phi std(c) / std(g) + 1 - phi)                                         (2)
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def guide(
  conditional: Float[Array, 'b h w c'],
  unconditional: Float[Array, 'b h w c'],
  scale: float,
  *,
  rescale: float,
) -> Float[Array, 'b h w c']:
  """The guided prediction.

  Args:
    conditional: c, the prediction behind the prompt.
    unconditional: u, the prediction behind no prompt.
    scale: s of (1); 1 is the conditional prediction, 0 the unconditional.
    rescale: phi of (2), Lin et al., equations 15 and 16; 0 is (1) alone. Deviations are
      those of one picture.
  """
  guided = unconditional + scale * (conditional - unconditional)
  if not rescale:
    return guided
  each = {'axis': (1, 2, 3), 'keepdims': True}
  ratio = jnp.std(conditional, **each) / jnp.std(guided, **each)
  return guided * (rescale * ratio + 1 - rescale)
