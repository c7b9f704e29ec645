"""Compiled programs: reading, scoring and writing, images to latents and back."""

import dataclasses
import functools
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from transfusion_jax.core import sharding
from transfusion_jax.generation import mixed
from transfusion_jax.generation import session as session_lib


@dataclasses.dataclass(frozen=True)
class Programs:
  """Compiled programs, made once for every mesh."""

  read: Callable
  score: Callable
  write: Callable
  trajectory: Callable
  encode: Callable
  decode: Callable


@functools.cache
def on_mesh(mesh: Mesh | None) -> Programs:
  """The programs for models that are divided over a mesh."""
  on = (lambda f: f) if mesh is None else functools.partial(sharding.on, mesh)

  def read(model, prompts, length):
    return session_lib.read(model, prompts, length=length)

  def write(model, rows, params, anchor, turns, stride, plan):
    return mixed.write(model, rows, params, anchor, turns, stride, plan)

  def trajectory(model, rows, params, stages, plan):
    return mixed.trajectory(model, rows, params, stages, plan)

  written = jax.jit(on(write), static_argnums=(6,), donate_argnums=(1,))
  return Programs(
    read=jax.jit(on(read), static_argnums=(2,)),
    score=jax.jit(on(session_lib.score)),
    write=lambda model, *, rows, params, anchor, turns, stride, plan: written(
      model, rows, params, anchor, turns, stride, plan
    ),
    trajectory=jax.jit(on(trajectory), static_argnums=(3, 4)),
    encode=jax.jit(lambda codec, pixels: codec.encode(pixels)),
    decode=jax.jit(lambda codec, latents: codec.decode(latents)),
  )
