"""Protocol of an objective: a plain sum, and metrics with their own denominators.

The loss is a mean over text tokens plus lambda times a mean over images. Micro-batches
hold different counts of each, so that a mean of their means would be wrong.
Denominators are therefore counted first, over the whole batch (`normalizers`); the loss
of a part of the batch is then a plain sum, and the losses of all parts add up to the
whole.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from transfusion_jax.core import tree


@tree.struct
class Ratio:
  """A metric as a sum and a count, so that parts of a batch can be added up."""

  sum: Float[Array, '']
  count: Float[Array, '']

  @property
  def value(self) -> Float[Array, '']:
    """The mean; 0 where nothing was counted."""
    return self.sum / jnp.maximum(self.count, 1e-9)


@tree.struct
class Loss:
  """A part's contribution to the loss of the whole batch.

  Attributes:
    total: what is differentiated; parts add up to the loss of the whole batch.
    metrics: by name, what is logged.
  """

  total: Float[Array, '']
  metrics: dict[str, Ratio]


@runtime_checkable
class Objective(Protocol):
  """From a model and a part of a batch to that part's loss."""

  def normalizers(self, batch: Any, step: Int[Array, '']) -> dict[str, Array]:
    """Inputs shared by all parts: counts over the whole batch by which their sums are
    divided, and weights that follow the steps taken.
    """

  def __call__(
    self,
    model: Any,
    batch: Any,
    keys: Key[Array, ' b'],
    normalizers: dict[str, Array],
  ) -> Loss:
    """The loss of some rows of a batch; `keys` holds one random key per row."""


def weighted_sum(values: Float[Array, '*b'], weight: Float[Array, '*b']) -> Ratio:
  """Sum of `values` under `weight` as a metric; unweighted values may be anything."""
  kept = jnp.where(weight > 0, values, 0.0)
  return Ratio(jnp.sum(kept * weight), jnp.sum(weight))


def add(parts: Loss) -> Loss:
  """Adds up losses that are stacked along a leading axis, one per micro-batch."""
  return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), parts)
