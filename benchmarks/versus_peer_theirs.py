"""Peer's side of `versus_peer`: transfusion-pytorch with its defaults, without JAX."""

import contextlib
import io

import torch
from torch.utils import flop_counter
from transfusion_pytorch import Transfusion

from benchmarks import on_cpu, versus_peer


def make_model() -> Transfusion:
  """Model of both sides."""
  sizes = {
    'dim': versus_peer.WIDTH,
    'depth': versus_peer.DEPTH,
    'dim_head': on_cpu.HEAD_DIM,
    'heads': versus_peer.HEADS,
  }
  return Transfusion(
    num_text_tokens=on_cpu.VOCABULARY,
    dim_latent=on_cpu.CHANNELS,
    modality_num_dim=1,
    modality_default_shape=(on_cpu.PATCHES,),
    transformer=sizes,
  )


def counted(work) -> float:
  """Counts the operations of some work."""
  with flop_counter.FlopCounterMode(display=False) as counter:
    work()
  return counter.get_total_flops()


def training(model: Transfusion) -> versus_peer.Measure:
  """Measure of training steps."""
  optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
  rows = [
    [
      torch.randint(0, on_cpu.VOCABULARY, (versus_peer.TEXT,)),
      (0, torch.randn(on_cpu.PATCHES, on_cpu.CHANNELS)),
      torch.randint(0, on_cpu.VOCABULARY, (versus_peer.TEXT,)),
    ]
    for _ in range(versus_peer.ROWS)
  ]

  def step():
    optimizer.zero_grad()
    model(rows).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

  def steps():
    model.train()
    for _ in range(2):
      step()

  return versus_peer.Measure(
    on_cpu.rate(steps, 2 * versus_peer.TOKENS),
    lambda: counted(step) / versus_peer.TOKENS,
  )


def sampling(model: Transfusion):
  """Measures of sampling in `versus_peer`.

  The default of 16 times means 15 steps of the midpoint rule, or 60 evaluations with
  guidance. An image begins with its [som] token after the prompt, as a model would.
  """
  words = torch.randint(0, on_cpu.VOCABULARY, (versus_peer.PROMPT,))
  opened = torch.cat([words, torch.tensor([model.get_modality_info(0).som_id])])
  shown = [(0, torch.randn(on_cpu.PATCHES, on_cpu.CHANNELS))]
  options = {
    'text_temperature': 0.0,
    'modality_steps': 16,
    'fixed_modality_shape': (on_cpu.PATCHES,),
    'return_unprocessed_modalities': True,
  }

  def quietly(work):
    def run():
      with contextlib.redirect_stderr(io.StringIO()):
        work()

    return run

  def text(rows: int):
    prompt = words[None].repeat(rows, 1)
    return lambda: model.generate_text_only(
      prompt, versus_peer.PROMPT + 256, temperature=0.0
    )

  def one(prompt, length: int, **more):
    return lambda: model.sample_one(prompt, length, **options, **more)

  several = [[opened]] * 4 + [shown] * 2 + [[words]] * 2
  work = {
    'image': (one([opened], 0, cache_kv=True), 1),
    'text': (text(1), 256),
    'text_8': (text(8), 8 * 256),
    'caption': (one(shown, 63), 64),
    'mixed_8': (lambda: model.sample_many(several, 63, **options), 8),
  }

  def measure(what, amount: int) -> versus_peer.Measure:
    what = quietly(what)
    return versus_peer.Measure(
      on_cpu.rate(what, amount), lambda: counted(what) / amount
    )

  return {name: measure(*each) for name, each in work.items()}


def main() -> None:
  """Serves requests for measures."""
  torch.set_num_threads(versus_peer.threads())
  torch.manual_seed(0)
  model = make_model()
  a = torch.ones(2048, 2048)
  versus_peer.serve(
    {'train': training(model), **sampling(model)},
    lambda: a @ a,
    versions={'torch': torch.__version__, 'transfusion-pytorch': '0.20.0'},
  )


if __name__ == '__main__':
  main()
