"""The training step: a pure function (state, batch) -> (state, metrics).

Parameters of the model that are given and not trained are a third argument.

The batch's denominators are counted first, so that the loss is a plain sum over rows
and the gradient of a batch is the sum of the gradients of its micro-batches. Every row
draws its noise from a key of its own: nothing depends on how rows are grouped or
sharded.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from transfusion_jax.core import sharding
from transfusion_jax.training import guard
from transfusion_jax.training import state as state_lib

Metrics = dict[str, Array]
Step = Callable[..., tuple[state_lib.TrainState, Metrics]]
"""Of a state, a batch and, where a model has some, parameters that are not trained."""


def make_step(
  bind: Callable[[Any], Any],
  objective: Callable[..., Any],
  tx: optax.GradientTransformation,
  *,
  microbatches: int,
  ema_decay: float,
  spike: float,
) -> Step:
  """Builds the step.

  Args:
    bind: from parameters to the model, `module.Definition.bind`.
    objective: see `objectives.loss.Objective`.
    tx: the optimizer.
    microbatches: parts into which the rows of a batch are divided, one after the other.
    ema_decay: of the parameters' moving average, with the usual warm-up
      `min(decay, (1 + step) / (10 + step))`; a state without an average keeps none.
    spike: see `guard.GuardConfig`; updates that are not sound are not made.
  """
  gradients = _gradients(bind, objective, microbatches)

  def step(state, batch, frozen=None):
    grads, loss = gradients(state, batch, frozen or {})
    with jax.numpy_dtype_promotion('standard'):  # optax mixes floats and counts
      updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = _average(state.ema, params, ema_decay, state.step)
    norm = optax.tree.norm(grads)
    sound = guard.sound(loss.total, norm, state.norm, state.step, spike=spike)
    params, ema, opt_state = guard.chosen(
      sound, (params, ema, opt_state), (state.params, state.ema, state.opt_state)
    )
    metrics = {name: ratio.value for name, ratio in loss.metrics.items()}
    metrics |= {'loss': loss.total, 'grad_norm': norm}
    metrics['skipped'] = (~sound).astype(norm.dtype)
    return state_lib.TrainState(
      step=state.step + 1,
      params=params,
      ema=ema,
      opt_state=opt_state,
      key=state.key,
      norm=guard.usual(state.norm, norm, sound),
    ), metrics

  return step


def _gradients(bind, objective, microbatches: int):
  """From a state, a batch and frozen parameters to gradients and the loss."""

  def gradients(state, batch, frozen):
    normalizers = objective.normalizers(batch, state.step)
    count = jax.tree.leaves(batch)[0].shape[0]
    keys = jax.random.split(jax.random.fold_in(state.key, state.step), count)

    def part_loss(params, rows, keys):
      loss = objective(bind(params | frozen), rows, keys, normalizers)
      return loss.total, loss

    def part_of(rows, keys):
      rows, keys = jax.tree.map(sharding.rows, (rows, keys))
      return jax.grad(part_loss, has_aux=True)(state.params, rows, keys)

    def accumulate(total, part):
      return jax.tree.map(jnp.add, total, part_of(*part)), None

    if microbatches == 1:
      return part_of(batch, keys)
    parts = jax.tree.map(lambda x: _divide(x, microbatches), (batch, keys))
    shapes = jax.eval_shape(part_of, *jax.tree.map(lambda x: x[0], parts))
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(accumulate, start, parts)
    return total

  return gradients


def _divide(x: Array, parts: int) -> Array:
  """Rows j, j + parts, ... as part j: every device keeps the rows that it has."""
  return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)


def _average(ema, params, decay, step):
  if not ema:
    return ema
  taken = step.astype(jnp.float32)
  now = jnp.minimum(decay, (1.0 + taken) / (10.0 + taken))
  return jax.tree.map(lambda old, new: now * old + (1 - now) * new, ema, params)
