"""Cost of images: a compiled Transfusion step against a compiled Llama step.

  pip install -e '.[tpu]'
  python -m benchmarks.plain_llama --config=configs/transfusion_7b.py \
    --topology=v5p:8x8x8 --config.mesh.data=64 --config.mesh.fsdp=8

compiles three steps for the same mesh, rows and optimizer, and compares them:

* `transfusion`: every row with its images, noise, adapter and both losses;
* `text`: the same model and objective, `data.image_slots=0`;
* `llama`: a decoder for text alone: token table, transformer, head.

The first is compiled by `transfusion_jax.compile_check` itself, the others here, by the
same method. Nothing runs; times are estimates. `--transfusion=FILE` reads the output
of `compile_check --json` for the same flags, as compiling a U-Net takes long.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from transfusion_jax.compiling import environment

if __name__ == '__main__':
  os.environ.update(environment.VARIABLES)  # before jax is imported, which reads them

from absl import app, flags
from jax.sharding import NamedSharding
from ml_collections import config_flags

from transfusion_jax.compiling import flops, program, summary, topologies
from transfusion_jax.core import axes
from transfusion_jax.models import layers, module, transformer
from transfusion_jax.objectives import loss
from transfusion_jax.ops import cross_entropy
from transfusion_jax.runs import build, config
from transfusion_jax.training import mesh as mesh_lib
from transfusion_jax.training import optimizer


class Llama(module.Module):
  """Language model: token table, decoder, head."""

  def __init__(self, rngs, settings: transformer.TransformerConfig, table, used):
    width, self.used = settings.width, used
    self.embedding = module.weight(rngs, scale=1.0, vocab=table, embed=width)
    self.transformer = transformer.Transformer(rngs, settings)
    self.head = layers.Linear(
      rngs, width, table, axes=('embed', 'vocab'), scale=0.5, bias=False
    )

  def __call__(self, batch):
    """Hidden states."""
    x = layers.look_up(self.embedding, batch.tokens, self.transformer.config.dtype)
    return self.transformer(x, batch.position, batch.span)

  def nats(self, hidden, targets):
    """Cross-entropy of each next token."""
    matrix = module.cast(self.head.matrix, hidden.dtype)
    return cross_entropy.cross_entropy(hidden, matrix, targets, used=self.used)


class NextToken:
  """Objective of a language model."""

  def normalizers(self, batch, step):
    """Number of learnt tokens in the whole batch."""
    del step
    return {'text': batch.weight.sum()}

  def __call__(self, model, batch, keys, normalizers):
    """Loss of some rows."""
    nats = model.nats(model(batch), batch.targets)
    text = loss.weighted_sum(nats, batch.weight)
    return loss.Loss(text.sum / normalizers['text'], {'loss_text': text})


def llama(run: config.TransfusionRun) -> build.Parts:
  """Llama of the size of a run, with its training config."""
  words, decoder = build.vocabulary(run), run.model.transformer
  whole = module.blueprint(lambda rngs: Llama(rngs, decoder, *words))
  blueprint, frozen = module.divide(whole, ())
  steps = run.train.steps
  tx = optimizer.make(run.optimizer, blueprint.axes, steps)
  schedule = optimizer.schedule(run.optimizer, steps)
  return build.Parts(
    blueprint=blueprint, objective=NextToken(), tx=tx, schedule=schedule, frozen=frozen
  )


def text_only(run: config.TransfusionRun) -> config.TransfusionRun:
  """Run without slots for images."""
  return dataclasses.replace(run, data=dataclasses.replace(run.data, image_slots=0))


def compiled_text(
  parts: build.Parts, run: config.TransfusionRun, topology: topologies.Topology
) -> dict[str, Any]:
  """Result of `compile_check` for a step on text alone."""
  mesh = mesh_lib.make(run.mesh, topologies.devices(topology))
  trainer = build.trainer_of(parts, run, mesh)
  batch = build.batch_shapes(run, run.data.rows, NamedSharding(mesh, axes.BATCH_SPEC))
  made = program.build(trainer.step, (trainer.abstract, batch), mesh)
  decoder = run.model.transformer
  rows, length = batch.tokens.shape
  return summary.measure(
    made,
    topology=topology,
    mesh=mesh,
    state=trainer.abstract,
    batch=batch,
    trips=decoder.depth,
    model_flops=flops.model(
      trainer.parts.blueprint.shapes,
      decoder,
      tokens=rows * length,
      pairs=rows * flops.visible_pairs(length=length, images=0, patches=0),
      adapter=0.0,
    ),
  )


def compiled(arguments: list[str]) -> dict[str, Any]:
  """Result of `compile_check` for a run."""
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / 'found.json'
    command = [sys.executable, '-m', 'transfusion_jax.compile_check', *arguments]
    subprocess.run([*command, f'--json={file}'], check=True, capture_output=True)
    return json.loads(file.read_text())


def checked(found: dict[str, Any], run: config.TransfusionRun) -> dict[str, Any]:
  """Checks that an earlier result has this mesh and topology, and returns it."""
  topology = topologies.find(_TOPOLOGY.value)
  wanted = mesh_lib.make(run.mesh, topologies.devices(topology)).shape
  same = found.get('topology') == topology.name and found.get('mesh') == dict(wanted)
  if not same or 'mfu' not in found:
    raise ValueError(
      f'expected a step that fits on {topology.name} with the mesh {dict(wanted)}, '
      f'found {found.get("topology")} with {found.get("mesh")}; change --transfusion'
    )
  return found


def told(found: dict[str, Any]) -> dict[str, float]:
  """Numbers that are compared."""
  collectives = found['collectives']
  return {
    'model_flops': found['model_flops'],
    'program_flops': found['program_flops'],
    'collective_bytes': sum(each['count'] * each['bytes'] for each in collectives),
    'collective_seconds': sum(each['seconds'] for each in collectives),
    'step_seconds': found['step_seconds'],
    'mfu': found['mfu'],
    'peak_gib': found['peak_bytes'] / 2**30,
  }


def main(_) -> None:
  """Compiles all three and prints them with their ratios to the Llama."""
  ours = ('--output', '--transfusion')
  chosen = [each for each in sys.argv[1:] if not each.startswith(ours)]
  known = _TRANSFUSION.value and pathlib.Path(_TRANSFUSION.value).read_text()
  run, topology = config.parse(_CONFIG.value), topologies.find(_TOPOLOGY.value)
  text = text_only(run)
  found = {
    'transfusion': checked(json.loads(known), run) if known else compiled(chosen),
    'text': compiled_text(build.parts(text), text, topology),
    'llama': compiled_text(llama(text), text, topology),
  }
  found = {name: told(each) for name, each in found.items()}
  ratios = {
    f'{name} / llama': {k: v / found['llama'][k] for k, v in found[name].items()}
    for name in ('transfusion', 'text')
  }
  told_all = json.dumps({**found, **ratios}, indent=1)
  print(told_all)
  if _OUTPUT.value:
    pathlib.Path(_OUTPUT.value).write_text(told_all + '\n')


if __name__ == '__main__':
  _CONFIG = config_flags.DEFINE_config_file('config', None, 'Config file.')
  _TOPOLOGY = flags.DEFINE_string('topology', None, 'For example v5e:16x16.')
  _OUTPUT = flags.DEFINE_string('output', None, 'File for the result.')
  _TRANSFUSION = flags.DEFINE_string('transfusion', None, 'What compile_check wrote.')
  app.run(main)
