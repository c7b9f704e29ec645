"""Classifier-free guidance (Ho and Salimans, 2022)."""

from jaxtyping import Array, Float


def guide(
  conditional: Float[Array, '*b'], unconditional: Float[Array, '*b'], scale: float
) -> Float[Array, '*b']:
  """`u + s (c - u)`: scale 1 is the conditional prediction, 0 the unconditional."""
  return unconditional + scale * (conditional - unconditional)
