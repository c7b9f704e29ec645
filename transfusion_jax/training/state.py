"""Training state, created sharded: it never exists as a whole on one device."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transfusion_jax.core import axes, tree


@tree.struct
class TrainState:
  """Values that a step changes and a checkpoint stores.

  Attributes:
    step: number of steps taken.
    params: nested dict of parameters.
    ema: exponential moving average of `params`; an empty dict if none is kept, which
      saves the memory of a copy.
    opt_state: state of the optimizer.
    key: random key of the run; step `k` draws from `fold_in(key, k)`.
    norm: moving average of the gradient's norm; 0 before the first step.
  """

  step: Int[Array, '']
  params: Any
  ema: Any
  opt_state: Any
  key: PRNGKeyArray
  norm: Float[Array, '']

  @property
  def averaged(self) -> Any:
    """Parameters for sampling: the average, if there is one."""
    return self.ema or self.params


def averaged_field(ema_decay: float) -> str:
  """Name of the state's field with the parameters for sampling."""
  return 'ema' if ema_decay else 'params'


def initial(
  init,
  tx: optax.GradientTransformation,
  key: PRNGKeyArray,
  *,
  average: bool,
  given: Mapping[tuple[str, ...], Array] | None = None,
) -> TrainState:
  """State before the first step.

  Args:
    init: creates parameters from a key.
    tx: optimizer.
    key: random key of the run.
    average: if True, a moving average of the parameters is kept.
    given: parameters by path that replace those of `init`; if shapes differ, the part
      that both shapes have in common is replaced.
  """
  for_params, for_run = jax.random.split(key)
  made = tree.flatten(init(for_params))
  params = tree.nest(
    made | {path: _laid_over(made[path], leaf) for path, leaf in (given or {}).items()}
  )
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    ema=jax.tree.map(jnp.copy, params) if average else {},
    opt_state=tx.init(params),
    key=for_run,
    norm=jnp.zeros((), jnp.float32),
  )


def _laid_over(made: Array, given: Array) -> Array:
  """Replaces the part of `made` that `given` covers."""
  if made.shape == given.shape:
    return given
  common = tuple(
    slice(0, min(sizes)) for sizes in zip(made.shape, given.shape, strict=True)
  )
  return made.at[common].set(given[common])


def shardings(
  abstract: TrainState, names: Any, tx: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Shardings of all arrays of the state; moments are sharded like their parameters.

  Args:
    abstract: shapes of the state, from `jax.eval_shape` of `initial`.
    names: axis names of every parameter.
    tx: optimizer.
    mesh: mesh of the run.
  """
  params = axes.shardings(mesh, names, abstract.params)
  whole = axes.replicated(mesh)
  opt_state = optax.tree_map_params(
    tx,
    lambda _, sharding: sharding,
    abstract.opt_state,
    params,
    transform_non_params=lambda _: whole,
  )
  return tree.likeness(
    TrainState,
    step=whole,
    params=params,
    ema=params if abstract.ema else {},
    opt_state=opt_state,
    key=whole,
    norm=whole,
  )
