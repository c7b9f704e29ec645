"""This package's side of `versus_peer`: the step of `train`, and its sampler."""

import contextlib
import dataclasses
from collections.abc import Iterator
from unittest import mock

from benchmarks import on_cpu, versus_peer

CONTEXT = 1024


def training():
  """Measure of training, and the parameters that it trains."""
  import jax

  from transfusion_jax.compiling import flops

  step, state, run = on_cpu.make_step(
    width=versus_peer.WIDTH, depth=versus_peer.DEPTH, heads=versus_peer.HEADS
  )
  batch = on_cpu.make_batch(rows=versus_peer.ROWS, documents=1, text=versus_peer.TEXT)
  shapes = jax.eval_shape(lambda: (state, batch))
  params = jax.tree.map(lambda leaf: leaf.copy(), state.params)
  held = []

  def steps():
    if not held:  # nothing is compiled before it is asked for
      held.append(on_cpu.repeated(step, state, batch))
    for _ in range(2):
      held[0]()

  measure = versus_peer.Measure(
    on_cpu.rate(steps, 2 * versus_peer.TOKENS),
    lambda: flops.count(step, *shapes) / versus_peer.TOKENS,
  )
  return measure, params, run


def engine(params, run):
  """Sampler of latents: neither side has an autoencoder here."""
  import jax
  import jax.numpy as jnp

  from transfusion_jax.data.rows import layout
  from transfusion_jax.data.text import tokenizers
  from transfusion_jax.generation import engine as engine_lib
  from transfusion_jax.models.codecs import codec
  from transfusion_jax.runs import build

  @jax.tree_util.register_static
  class Latents:
    """Codec that returns latents as images."""

    def encode(self, pixels):
      return pixels.astype(jnp.float32) / 127.5 - 1.0

    def decode(self, latents):
      return codec.to_pixels(latents)

  words = tuple(f'w{k}' for k in range(on_cpu.VOCABULARY - 5))
  tokenizer = tokenizers.Words(words, reserved=0, multiple=1)
  side = int(on_cpu.PATCHES**0.5)
  return engine_lib.Engine(
    model=build.parts(run).blueprint.definition.bind(params),
    codec=Latents(),
    tokenizer=tokenizer,
    layout=layout.Layout(tokenizer, patches=on_cpu.PATCHES),
    path=build.path(run.objective.path),
    target='epsilon',
    latents=(side, side, on_cpu.CHANNELS),
    context=CONTEXT,
  )


def sampling(engine):
  """Measures of sampling in `versus_peer`."""
  import jax
  import numpy as np

  from configs import base
  from transfusion_jax.data import documents
  from transfusion_jax.generation import logits, requests
  from transfusion_jax.generation.samplers import denoise

  chosen = {'solver': 'ddim', 'steps': 30, 'guidance': 3.0}
  drawing = denoise.ImageSampling(**{**base.transfusion().sampling, **chosen})
  words = ' '.join(f'w{k}' for k in range(versus_peer.PROMPT))
  drawn = engine.layout.picture_prompt(words)
  written = engine.layout.prompt((documents.Text(words, False),), open_image=False)
  side = engine.latents[:2]
  pixels = np.random.default_rng(0).integers(0, 256, (*side, on_cpu.CHANNELS), np.uint8)
  shown = engine.layout.caption_prompt(pixels)

  def request(prompt, tokens: int, pictures: int = 0):
    text = logits.TextSampling(
      temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, limit=tokens
    )
    return requests.Request(
      prompt=prompt, key=jax.random.key(0), text=text, pictures=pictures
    )

  def rate(asked, amount: float):
    return on_cpu.rate(lambda: engine.write(asked, drawing), amount)

  def spent(asked, rounds: int):
    with counting((1, rounds)) as found:
      engine.write(asked, drawing)
    return sum(found)

  def texts(prompt, rows: int, tokens: int):
    asked, amount = [request(prompt, tokens)] * rows, rows * tokens
    return versus_peer.Measure(
      rate(asked, amount), lambda: spent(asked, tokens) / amount
    )

  picture = request(drawn, 0, 1)
  mixed = [picture] * 4 + [request(shown, 64)] * 2 + [request(written, 64)] * 2

  def mixed_operations():
    # Text is written in all rows at once, and pictures are drawn two at a time. What
    # reads the two pictures to be captioned is left out: less than a hundredth.
    return (spent([request(written, 64)] * 8, 64) + spent([picture] * 4, 2)) / 8

  return {
    'image': versus_peer.Measure(rate([picture], 1), lambda: spent([picture], 1)),
    'text': texts(written, 1, 256),
    'text_8': texts(written, 8, 256),
    'caption': texts(shown, 1, 64),
    'mixed_8': versus_peer.Measure(rate(mixed, 8), mixed_operations),
  }


@contextlib.contextmanager
def counting(rounds: tuple[int, ...]) -> Iterator[list[float]]:
  """Counts the operations of all sampler programs that run inside the context.

  Args:
    rounds: iterations of its loops; see `flops.count`.
  """
  from transfusion_jax.compiling import flops
  from transfusion_jax.generation import programs

  compiled, found = programs.on_mesh(None), []

  def counted(program):
    def run(*args, **options):
      found.append(flops.count(lambda: program(*args, **options), rounds=rounds))
      return program(*args, **options)

    return run

  fields = [field.name for field in dataclasses.fields(compiled)]
  made = programs.Programs(
    **{name: counted(getattr(compiled, name)) for name in fields}
  )
  with mock.patch.object(programs, 'on_mesh', return_value=made):
    yield found


def main() -> None:
  """Serves requests for measures."""
  on_cpu.pin(versus_peer.threads())
  import jax

  train, params, run = training()
  measures = {'train': train, **sampling(engine(params, run))}
  versus_peer.serve(measures, on_cpu.product(), versions={'jax': jax.__version__})


if __name__ == '__main__':
  main()
