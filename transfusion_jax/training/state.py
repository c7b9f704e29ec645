"""The state of a run, made sharded and never whole on one device."""

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
  """All that a step changes, and all that a checkpoint must hold of the model.

  Attributes:
    step: steps taken.
    params: nested dict of parameters.
    ema: exponential moving average of `params`; without one an empty dict, and the
      memory of a copy is saved.
    opt_state: of the optimizer.
    key: the run's key; step `k` draws from `fold_in(key, k)`.
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
    """The parameters to sample with."""
    return self.ema or self.params


def averaged_field(ema_decay: float) -> str:
  """The field of a state that holds the parameters to sample with."""
  return 'ema' if ema_decay else 'params'


def initial(
  init,
  tx: optax.GradientTransformation,
  key: PRNGKeyArray,
  *,
  average: bool,
  given: Mapping[tuple[str, ...], Array] | None = None,
) -> TrainState:
  """The state before the first step.

  Args:
    init: makes parameters from a key.
    tx: the optimizer.
    key: of the run.
    average: whether a moving average is kept.
    given: parameters by path that take the place of those `init` makes; where sizes
      differ, what both have of each axis.
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
  if made.shape == given.shape:
    return given
  common = tuple(
    slice(0, min(sizes)) for sizes in zip(made.shape, given.shape, strict=True)
  )
  return made.at[common].set(given[common])


def shardings(
  abstract: TrainState, names: Any, tx: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Where every array of the state lives; moments are sharded like their parameters.

  Args:
    abstract: the state's shapes, from `jax.eval_shape` of `initial`.
    names: axis names of every parameter.
    tx: the optimizer.
    mesh: the devices.
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
