"""This package's side of `versus_peer`: the step of `train`, and its sampler."""

from benchmarks import on_cpu, versus_peer

ROWS, TEXT, DEPTH, WIDTH, HEADS = 8, 64, 6, 384, 6
PROMPT, CONTEXT = 32, 1024
TOKENS = ROWS * (2 * TEXT + on_cpu.PATCHES)


def training():
  """The measure, operations per token, and the parameters that it trains."""
  import jax

  from transfusion_jax.compiling import flops

  step, state, run = on_cpu.make_step(width=WIDTH, depth=DEPTH, heads=HEADS)
  batch = on_cpu.make_batch(rows=ROWS, documents=1, text=TEXT)
  counted = flops.count(step, *jax.eval_shape(lambda: (state, batch))) / TOKENS
  params = jax.tree.map(lambda leaf: leaf.copy(), state.params)
  held = []

  def steps():
    if not held:  # nothing is compiled before it is asked for
      held.append(on_cpu.repeated(step, state, batch))
    for _ in range(2):
      held[0]()

  return on_cpu.rate(steps, 2 * TOKENS), counted, params, run


def engine(params, run):
  """The sampler, on latents as they are: neither side has an autoencoder here."""
  import jax
  import jax.numpy as jnp

  from transfusion_jax import build
  from transfusion_jax.data import layout, tokenizers
  from transfusion_jax.generation import engine as engine_lib
  from transfusion_jax.models import codec

  @jax.tree_util.register_static
  class Latents:
    """Takes latents for pictures."""

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
  """The measures of `versus_peer` that sample."""
  import jax
  import numpy as np

  from configs import base
  from transfusion_jax.data import documents
  from transfusion_jax.generation import image, logits, requests

  chosen = {'solver': 'ddim', 'steps': 30, 'guidance': 3.0}
  drawing = image.ImageSampling(**{**base.transfusion().sampling, **chosen})
  words = ' '.join(f'w{k}' for k in range(PROMPT))
  drawn = engine.layout.picture_prompt(words)
  written = engine.layout.prompt((documents.Text(words, False),), open_image=False)
  side = engine.latents[:2]
  pixels = np.random.default_rng(0).integers(0, 256, (*side, on_cpu.CHANNELS), np.uint8)
  shown = engine.layout.caption_prompt(pixels)

  def request(prompt, tokens: int, pictures: int = 0):
    text = logits.TextSampling(0.0, 0, 1.0, 0.0, limit=tokens)
    return requests.Request(prompt, jax.random.key(0), text, pictures)

  def measure(asked, amount: float):
    return on_cpu.rate(lambda: engine.write(asked, drawing), amount)

  picture = request(drawn, 0, 1)
  mixed = [picture] * 4 + [request(shown, 64)] * 2 + [request(written, 64)] * 2
  return {
    'image': measure([picture], 1),
    'text': measure([request(written, 256)], 256),
    'text_8': measure([request(written, 256)] * 8, 8 * 256),
    'caption': measure([request(shown, 64)], 64),
    'mixed_8': measure(mixed, 8),
  }


def main() -> None:
  """Serves what is asked for."""
  on_cpu.pin(versus_peer.threads())
  import jax

  train, counted, params, run = training()
  measures = {'train': train, **sampling(engine(params, run))}
  versus_peer.serve(
    measures,
    flops_per_token=counted,
    peak_flops=on_cpu.peak_of(on_cpu.product()),
    versions={'jax': jax.__version__},
  )


if __name__ == '__main__':
  main()
