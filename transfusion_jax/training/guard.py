"""Guard against batches whose loss or gradient is NaN, infinite or far too large.

Their update is skipped: the step counts, but the parameters, their average and the
state of the optimizer stay unchanged, so that no checkpoint contains the effect of such
a batch. A policy decides if the run then continues.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from transfusion_jax.core import command, log

_MEMORY = 0.99
_SETTLED = 100  # before this step, large gradients are normal


@dataclasses.dataclass(frozen=True)
class GuardConfig:
  """Conditions for skipping an update and for ending the run.

  Attributes:
    policy: `skip` continues with the next batch; `stop` ends the run.
    limit: number of consecutive skipped updates that ends the run with either policy.
    spike: largest gradient norm, as a multiple of its moving average; 0: no limit.
  """

  policy: Literal['skip', 'stop']
  limit: int
  spike: float

  def __post_init__(self):
    if self.limit < 1 or self.spike < 0:
      raise ValueError(
        f'expected a limit of at least 1 and a spike of at least 0, found {self}; '
        'change train.guard'
      )


def sound(
  loss: Float[Array, ''],
  norm: Float[Array, ''],
  *,
  usual: Float[Array, ''],
  step: Int[Array, ''],
  spike: float,
) -> Bool[Array, '']:
  """True if the update of a batch is to be applied.

  Args:
    loss: loss of the batch.
    norm: norm of its gradient.
    usual: moving average of `norm`.
    step: number of steps taken before.
    spike: see `GuardConfig`.
  """
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)
  if not spike:
    return finite
  unsettled = (step < _SETTLED) | (usual == 0)
  return finite & ((norm <= spike * usual) | unsettled)


def usual(
  before: Float[Array, ''], norm: Float[Array, ''], sound: Bool[Array, '']
) -> Float[Array, '']:
  """Moving average of the norm after one more step; skipped updates do not count."""
  moved = jnp.where(before > 0, _MEMORY * before + (1 - _MEMORY) * norm, norm)
  return jnp.where(sound, moved, before)


def chosen(sound: Bool[Array, ''], new, old):
  """Selects `new` if the update is sound, else `old`; pytrees of the same shapes."""
  return jax.tree.map(lambda a, b: jnp.where(sound, a, b), new, old)


class Guard:
  """Logs skipped updates, and ends a run that has too many in a row."""

  def __init__(self, config: GuardConfig):
    self._config = config
    self._in_a_row = 0

  def look(
    self, first: int, taken: Sequence[Mapping[str, float]], digests: Sequence[str]
  ) -> int:
    """Checks the metrics of finished steps; returns the number of skipped updates.

    Args:
      first: number of the first of these steps.
      taken: metrics of each step.
      digests: digests of their batches.

    Raises:
      command.Exit: the policy is `stop`, or too many were skipped in a row.
    """
    skipped = 0
    for step, (metrics, batch) in enumerate(zip(taken, digests, strict=True), first):
      if not metrics['skipped']:
        self._in_a_row = 0
        continue
      skipped += 1
      self._in_a_row += 1
      said = f'step {step}, batch {batch}: {_reason(metrics)}; its update is not made'
      if self._config.policy == 'stop' or self._in_a_row >= self._config.limit:
        raise command.Exit(2, f'error: {said}; {self._advice()}')
      log.info(said)
    return skipped

  def _advice(self) -> str:
    if self._config.policy == 'stop':
      return 'lower the learning rate, or go on with --config.train.guard.policy=skip'
    return (
      f'that makes {self._in_a_row} in a row, as many as --config.train.guard.limit; '
      'lower the learning rate, and start again from the last checkpoint'
    )


def _reason(metrics: Mapping[str, float]) -> str:
  broken = [
    name for name, value in metrics.items() if not np.isfinite(value) and name != 'loss'
  ]
  if broken:
    return f'{", ".join(broken)} not finite'
  return f'a gradient of norm {metrics["grad_norm"]:.3g}, far above the usual'
