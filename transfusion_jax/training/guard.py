"""What is done with a batch whose loss or gradient is NaN, infinite or far too large.

Its update is not made: the step counts, and the parameters, their average and the
optimizer stay as they were. So no checkpoint ever holds what such a batch would have
left. Whether the run then goes on is the policy.
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
_SETTLED = 100  # steps before which a large gradient is nothing unusual


@dataclasses.dataclass(frozen=True)
class GuardConfig:
  """When an update is not made, and whether training goes on.

  Attributes:
    policy: `skip` goes on with the next batch; `stop` ends the run.
    limit: updates skipped in a row with which the run ends all the same.
    spike: times its moving average that a gradient's norm may have; 0: any.
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
  usual: Float[Array, ''],
  step: Int[Array, ''],
  *,
  spike: float,
) -> Bool[Array, '']:
  """Whether an update may be made.

  Args:
    loss: of the batch.
    norm: of its gradient.
    usual: moving average of `norm`.
    step: steps taken.
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
  """The moving average of the norm, behind one more step."""
  moved = jnp.where(before > 0, _MEMORY * before + (1 - _MEMORY) * norm, norm)
  return jnp.where(sound, moved, before)


def chosen(sound: Bool[Array, ''], new, old):
  """`new` where an update may be made, else `old`; pytrees of the same shapes."""
  return jax.tree.map(lambda a, b: jnp.where(sound, a, b), new, old)


class Guard:
  """Tells of skipped updates, and ends a run that has too many of them."""

  def __init__(self, config: GuardConfig):
    self._config = config
    self._in_a_row = 0

  def look(
    self, first: int, taken: Sequence[Mapping[str, float]], digests: Sequence[str]
  ) -> int:
    """Looks at steps that were taken, and counts the updates that were skipped.

    Args:
      first: number of the first of these steps.
      taken: metrics of each.
      digests: of their batches.

    Raises:
      command.Exit: the policy is to stop, or too many were skipped in a row.
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
