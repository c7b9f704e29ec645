"""Training steps of the tiny model."""

import jax
import jax.numpy as jnp
import optax

from tests.support import tiny
from transfusion_jax.training import state, step

SGD = optax.sgd(0.05)


def initial(tx, seed=0, **changes):
  """A state around copies of the tiny parameters."""
  params = jax.tree.map(jnp.copy, tiny.params(**changes))
  return state.TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    ema=jax.tree.map(jnp.copy, params),
    opt_state=tx.init(params),
    key=jax.random.key(seed),
    norm=jnp.zeros(()),
  )


def make(tx=SGD, *, microbatches=1, ema_decay=0.0, spike=0.0, **changes):
  return step.make_step(
    tiny.blueprint(**changes).definition.bind,
    tiny.OBJECTIVE,
    tx,
    microbatches=microbatches,
    ema_decay=ema_decay,
    spike=spike,
  )
