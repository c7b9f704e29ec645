"""AdamW with warm-up and cosine decay, weight decay on matrices only."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

SLOWEST_BFLOAT16 = 1 - 2**-8
"""Largest decay of bfloat16 moments: a slower one is rounded away in every step."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW (Loshchilov and Hutter, 2019) as in Transfusion, section 4.1.

  Attributes:
    learning_rate: learning rate at the end of the warm-up.
    final_learning_rate: learning rate at the end of the run, where the cosine ends.
    warmup_steps: steps of linear warm-up from 0.
    beta1: decay of the first moment.
    beta2: decay of the second moment.
    epsilon: constant added to the root of the second moment.
    weight_decay: decoupled weight decay of parameters with two or more axes.
    moments: type in which both moments are stored between steps; `bfloat16` halves
      their memory.
    clip: largest norm of the gradient over all parameters.
    ema_decay: decay of the moving average of the parameters; 0: no average.
  """

  learning_rate: float
  final_learning_rate: float
  warmup_steps: int
  beta1: float
  beta2: float
  epsilon: float
  weight_decay: float
  moments: Literal['float32', 'bfloat16']
  clip: float
  ema_decay: float

  def __post_init__(self):
    slowest = max(self.beta1, self.beta2)
    if self.moments == 'bfloat16' and slowest > SLOWEST_BFLOAT16:
      raise ValueError(
        f'expected beta1 and beta2 of at most {SLOWEST_BFLOAT16} for moments in '
        f'bfloat16, which would not move otherwise, found {slowest}; lower it, or set '
        'optimizer.moments=float32'
      )


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
  """Learning rate schedule of a run of `steps` steps."""
  warmup = min(config.warmup_steps, max(steps - 1, 0))
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0 if warmup else config.learning_rate,
    peak_value=config.learning_rate,
    warmup_steps=warmup,
    decay_steps=max(steps, 1),
    end_value=config.final_learning_rate,
  )


def make(
  config: OptimizerConfig, names: Any, steps: int
) -> optax.GradientTransformation:
  """Optimizer for parameters with the axis names `names`."""
  matrices = jax.tree.map(
    lambda axes: len(axes) > 1, names, is_leaf=lambda node: isinstance(node, tuple)
  )
  adamw = optax.adamw(
    schedule(config, steps),
    b1=config.beta1,
    b2=config.beta2,
    eps=config.epsilon,
    weight_decay=config.weight_decay,
    mask=matrices,
  )
  # Clipped first, so that a single large gradient does not enter the moments in full.
  return optax.chain(
    optax.clip_by_global_norm(config.clip), _kept_in(adamw, config.moments)
  )


def _kept_in(adamw, dtype):
  """Stores both moments of `adamw` as `dtype`; every update is computed in float32."""

  def cast(state, dtype):
    moments, *rest = state
    mu, nu = optax.tree.cast((moments.mu, moments.nu), dtype)
    return (moments._replace(mu=mu, nu=nu), *rest)

  def init(params):
    return cast(adamw.init(params), dtype)

  def update(gradient, state, params):
    updates, state = adamw.update(gradient, cast(state, jnp.float32), params)
    return updates, cast(state, dtype)

  return optax.GradientTransformation(init, update)
