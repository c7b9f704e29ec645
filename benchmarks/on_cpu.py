"""CPU benchmarks: a small model, its documents, and the peak speed of the machine.

A document is text tokens, an image, and as many text tokens again. JAX is imported
inside functions: the peer's side of a comparison runs without it.
"""

import argparse
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

PATCHES, CHANNELS, HEAD_DIM, VOCABULARY = 256, 16, 64, 256


def parser(page: str) -> argparse.ArgumentParser:
  """Parser of the common arguments; `page` is the docstring of the benchmark."""
  made = argparse.ArgumentParser(description=page.splitlines()[0])
  made.add_argument('--json', help='file for the result')
  made.add_argument('--threads', type=int, default=os.cpu_count())
  made.add_argument('--rounds', type=int, default=7)
  return made


def pin(threads: int) -> None:
  """Restricts this process to the CPU and some cores; call before JAX starts."""
  # Where libtpu is installed, JAX would look for a TPU, at length.
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def tell(result: dict[str, Any], file: str | None) -> None:
  """Prints a result, and writes it to a file if one is given."""
  text = json.dumps(result, indent=2)
  print(text)
  if file:
    pathlib.Path(file).write_text(text + '\n')


def peak_of(multiply: Callable[[], object]) -> float:
  """Operations per second of twenty products of two 2,048 x 2,048 matrices.

  All twenty together and not the best one: on a shared machine a tenth of a second may
  be undisturbed, but a step is not.
  """
  multiply()
  began = time.perf_counter()
  for _ in range(20):
    multiply()
  return 20 * 2 * 2048**3 / (time.perf_counter() - began)


def rate(work: Callable[[], object], amount: float) -> Callable[[], float]:
  """Builds a measure: `amount` over the seconds that some work takes."""

  def measure() -> float:
    began = time.perf_counter()
    work()
    return amount / (time.perf_counter() - began)

  return measure


def product() -> Callable[[], None]:
  """Builds a function that multiplies two float32 matrices of 2,048 x 2,048."""
  import jax
  import jax.numpy as jnp

  a = jnp.ones((2048, 2048))
  multiply = jax.jit(jnp.dot)
  return lambda: multiply(a, a).block_until_ready()


def repeated(step, state, batch) -> Callable[[], None]:
  """Builds a function that runs the compiled step on the state of the last call."""
  import jax

  from transfusion_jax.core import compiler

  options = compiler.training('cpu')
  jitted = jax.jit(step, donate_argnums=(0,), compiler_options=options)
  compiled = jitted.lower(state, batch).compile()
  held = [state]

  def once():
    held[0], metrics = compiled(held[0], batch)
    jax.block_until_ready((held[0], metrics))

  return once


def make_step(*, width: int, depth: int, heads: int):
  """Step of a small model, its initial state, and the run."""
  import jax

  from configs import emoji_scenes
  from transfusion_jax.runs import build, config
  from transfusion_jax.training import state as state_lib
  from transfusion_jax.training import step as step_lib

  page = emoji_scenes.get_config()
  page.model.vocabulary = VOCABULARY
  page.model.transformer.update(
    depth=depth,
    width=width,
    heads=heads,
    kv_heads=heads,
    head_dim=HEAD_DIM,
    mlp=width * 8 // 3,
    unroll=depth,
  )
  page.model.adapter.linear.positions = 0
  page.optimizer.ema_decay = 0.0
  run = config.parse(page)
  parts = build.parts(run)
  state = state_lib.initial(
    parts.blueprint.init, parts.tx, jax.random.key(0), average=False
  )
  step = step_lib.make_step(
    parts.blueprint.definition.bind,
    parts.objective,
    parts.tx,
    microbatches=1,
    ema_decay=0.0,
    spike=0.0,
  )
  return step, state, run


def make_batch(*, rows: int, documents: int, text: int):
  """Batch of equal documents: text, patches of an image, as much text again."""
  import jax.numpy as jnp
  import numpy as np

  from transfusion_jax.models import batch

  size, side = 2 * text + PATCHES, int(PATCHES**0.5)
  length = documents * size
  document, position = np.divmod(np.arange(length), size)
  patch = (position >= text) & (position < text + PATCHES)
  start, number = document * size, document * PATCHES + position - text
  draw = np.random.default_rng(0)
  fields = {
    'tokens': draw.integers(0, VOCABULARY, (rows, length)),
    'targets': draw.integers(0, VOCABULARY, (rows, length)),
    'position': np.tile(position, (rows, 1)),
    'start': np.tile(start, (rows, 1)),
    'end': np.tile(start + np.where(patch, text + PATCHES, position + 1), (rows, 1)),
    'slot': np.tile(np.where(patch, number, -1), (rows, 1)),
  }
  images = draw.standard_normal((rows, documents, side, side, CHANNELS))
  return batch.Batch(
    **{name: jnp.asarray(value, jnp.int32) for name, value in fields.items()},
    weight=jnp.asarray(np.tile(~patch, (rows, 1)), jnp.float32),
    images=jnp.asarray(images, jnp.float32),
    noise_cap=jnp.ones((rows, documents)),
    image_weight=jnp.ones((rows, documents)),
  )
