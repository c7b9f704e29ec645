"""Training step: a pure function (state, batch) -> (state, metrics).

Frozen parameters of the model, if any, are a third argument.

The denominators of the loss are counted over the whole batch first. The loss is then a
plain sum over rows, and the gradient of a batch is the sum of those of its
micro-batches. Every row draws its noise from its own key, so that the result does not
depend on how rows are grouped or sharded.
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
"""Function of a state, a batch and, optionally, frozen parameters."""


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
    bind: returns the model for given parameters; see `module.Definition.bind`.
    objective: see `objectives.loss.Objective`.
    tx: optimizer.
    microbatches: number of parts of a batch that are computed one after the other.
    ema_decay: decay of the parameters' moving average, with the usual warm-up
      `min(decay, (1 + step) / (10 + step))`; unused if the state has no average.
    spike: see `guard.GuardConfig`; updates that are not sound are skipped.
  """
  gradients = _gradients(bind, objective, microbatches)

  def step(state, batch, frozen=None):
    grads, loss = gradients(state, batch, frozen or {})
    with jax.numpy_dtype_promotion('standard'):  # optax mixes floats and counts
      updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = _average(state.ema, params, decay=ema_decay, step=state.step)
    norm = optax.tree.norm(grads)
    sound = guard.sound(
      loss.total, norm, usual=state.norm, step=state.step, spike=spike
    )
    # A selection costs nothing beside the optimizer, and keeps the step one program.
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
  """Builds the function from (state, batch, frozen) to gradients and the loss."""

  def gradients(state, batch, frozen):
    normalizers = objective.normalizers(batch, state.step)
    count = jax.tree.leaves(batch)[0].shape[0]
    # Derived from the step: a resumed run draws the same noise as one never stopped.
    keys = jax.random.split(jax.random.fold_in(state.key, state.step), count)

    def part_loss(params, rows, keys):
      loss = objective(bind(params | frozen), rows, keys, normalizers=normalizers)
      return loss.total, loss

    def part_of(rows, keys):
      # In a scan over parts the compiler may lose track of how the rows are divided.
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
  """Splits rows so that part j has rows j, j + parts, ...: none changes its device."""
  return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)


def _average(ema, params, *, decay, step):
  """Moving average of the parameters after a step."""
  if not ema:
    return ema
  taken = step.astype(jnp.float32)
  now = jnp.minimum(decay, (1.0 + taken) / (10.0 + taken))
  return jax.tree.map(lambda old, new: now * old + (1 - now) * new, ema, params)
