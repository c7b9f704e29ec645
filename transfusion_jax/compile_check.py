"""Compiles a run's training step for TPUs that are not there, and says how it fares.

  python -m transfusion_jax.compile_check --config=configs/transfusion_7b.py \
    --topology=v5p:8x8x8

Needs libtpu (`pip install -e '.[tpu]'`) and no TPU. The step is the very one that
`train` runs, with its shardings. Memory is what the compiler allocates; times are its
estimates. `--config.mesh.fsdp=64` and all other fields as in `train`.
"""

import os

from transfusion_jax.compiling import environment

os.environ.update(environment.VARIABLES)  # before jax is imported, which reads them

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import NamedSharding
from ml_collections import config_flags

from transfusion_jax.compiling import flops, program, search, summary, topologies
from transfusion_jax.core import axes, command, log
from transfusion_jax.runs import build, config, preflight
from transfusion_jax.training import mesh as mesh_lib

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'Config file, for example configs/transfusion_7b.py.',
  lock_config=True,
)
_TOPOLOGY = flags.DEFINE_string('topology', None, 'For example v5e:16x16 or v5p:8x8x8.')
_SLICES = flags.DEFINE_integer('slices', 1, 'Slices of that topology.', 1, 2**16)
_BATCH = flags.DEFINE_integer('batch', 0, 'Rows of all hosts; 0: data.rows.', 0, 2**30)
_JSON = flags.DEFINE_string('json', None, 'File for the numbers.')
_HLO = flags.DEFINE_string('hlo', None, 'File for the scheduled HLO.')
_SEARCH = flags.DEFINE_boolean('search', False, 'Try meshes, remat and micro-batches.')
_TRIES = flags.DEFINE_integer('tries', 16, 'Compilations of --search.', 1, 2**16)


def main() -> None:
  """Compiles once, or searches."""
  with command.user_errors():
    if _CONFIG.value is None or not _TOPOLOGY.value:
      raise ValueError(
        'expected --config=FILE and --topology=NAME, found only one or none; for '
        'example --config=configs/transfusion_7b.py --topology=v5p:8x8x8'
      )
    topology = topologies.find(_TOPOLOGY.value, _SLICES.value)
    run = config.parse(_CONFIG.value)
    preflight.check_model(run)
    if _BATCH.value:  # nothing is packed: no shards that rows would have to divide into
      data = dataclasses.replace(run.data, rows=_BATCH.value, shards=1)
      run = dataclasses.replace(run, data=data)
    for flag in (_JSON, _HLO):
      if flag.value:
        command.output_file(flag.name, flag.value)
    devices = topologies.devices(topology)
    if _SEARCH.value:
      _write(_searched(run, topology, devices))
      return
    try:
      result = compiled(run, topology, devices)
    except program.DoesNotFit as error:
      _write({'topology': topology.name, 'fits': False, 'reason': str(error)})
      raise _too_large(topology, str(error), error.times) from error
    print('\n'.join(summary.lines(result)))
    _write(result)
    if not result['fits']:
      needed, held = result['peak_bytes'], result['hbm_bytes']
      raise _too_large(topology, f'needs {needed / 2**30:.1f} GiB', needed / held)


def compiled(
  run: config.Run, topology: topologies.Topology, devices: list[Any]
) -> dict[str, Any]:
  """Compiles the step of a run; see `summary.measure` for what is known then.

  Args:
    run: what would be trained.
    topology: for which chips.
    devices: those of the topology.

  Raises:
    ValueError: the mesh does not suit the devices, or the rows not the mesh.
    program.DoesNotFit: the chips have too little memory.
  """
  preflight.check_step(run, devices)
  mesh = mesh_lib.make(run.mesh, devices)
  trainer = build.trainer(run, mesh)
  program.check_state(trainer.abstract, topology.chip.hbm_bytes)
  batch = build.batch_shapes(run, run.data.rows, NamedSharding(mesh, axes.BATCH_SPEC))
  made = program.build(trainer.step, (trainer.abstract, batch, *trainer.frozen), mesh)
  if _HLO.value:
    pathlib.Path(_HLO.value).write_text(made.text)
  return summary.measure(
    made,
    topology=topology,
    mesh=mesh,
    state=trainer.abstract,
    batch=batch,
    trips=_depth(run),
    model_flops=_model_flops(run, trainer.parts, batch),
  )


def _too_large(topology: topologies.Topology, found: str, times: float) -> ValueError:
  return ValueError(
    f'expected a step that fits on {topology.name}, found one that {found}; raise '
    '--config.mesh.fsdp or --config.train.microbatches, lower --batch, or '
    + _larger(topology, times)
  )


def _larger(topology: topologies.Topology, times: float = 1.0) -> str:
  """Topology to try next; slices do not help, since each holds all parameters."""
  found = topologies.larger(topology, times)
  return f'try --topology={found.name}' if found else 'take a chip with more memory'


def _write(found: Any) -> None:
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(found, indent=1) + '\n')


def _searched(run, topology, devices) -> list[dict[str, Any]]:
  if isinstance(run, config.AutoencoderRun):
    raise ValueError('expected a transformer to search for, found an autoencoder')

  def attempt(candidate: search.Candidate) -> dict[str, Any] | None:
    try:
      result = compiled(_with(run, candidate), topology, devices)
    except program.DoesNotFit as error:
      log.info(f'{_told(candidate)}: {error}')
      return None
    log.info(f'{_told(candidate)}: {_short(result)}')
    return result if result['fits'] else None

  sizes, sequence = run.model.transformer, run.mesh.sequence
  if sequence == -1:  # of the mesh that is searched for only this is as the run says
    sequence = mesh_lib.shape(run.mesh, topology.devices, topology.slices)[3]
  shapes = search.meshes(
    topology,
    rows=run.data.rows,
    heads=sizes.kv_heads,
    width=sizes.width,
    sequence=sequence,
  )
  found = search.run(
    [each for each in shapes if _holds_state(run, each, topology, devices)],
    rows=run.data.rows,
    slices=topology.slices,
    attempt=attempt,
    tries=_TRIES.value,
  )
  if not found:
    raise ValueError(
      f'expected a choice that fits on {topology.name}, found none in at most '
      f'{_TRIES.value} compilations; raise --tries, or {_larger(topology)}'
    )
  print('fastest first:')
  for candidate, result in found:
    print(f'  {_told(candidate)}: {_short(result)}')
  return [{**dataclasses.asdict(c), **result} for c, result in found]


def _holds_state(run, sizes: mesh_lib.MeshConfig, topology, devices) -> bool:
  """True if the state that is kept between steps fits, known without a compilation."""
  placed = build.trainer(run, mesh_lib.make(sizes, devices)).abstract
  try:
    program.check_state(placed, topology.chip.hbm_bytes)
  except program.DoesNotFit as error:
    log.info(f'{dataclasses.asdict(sizes)}: {error}')
    return False
  return True


def _with(run: config.TransfusionRun, candidate: search.Candidate):
  return dataclasses.replace(
    _with_decoder(run, remat=candidate.remat),
    mesh=candidate.mesh,
    train=dataclasses.replace(run.train, microbatches=candidate.microbatches),
  )


def _with_decoder(run: config.TransfusionRun, **changes: Any) -> config.TransfusionRun:
  decoder = dataclasses.replace(run.model.transformer, **changes)
  model = dataclasses.replace(run.model, transformer=decoder)
  return dataclasses.replace(run, model=model)


def _told(candidate: search.Candidate) -> str:
  sizes = dataclasses.asdict(candidate.mesh)
  return (
    ' x '.join(f'{name} {size}' for name, size in sizes.items())
    + f', {candidate.microbatches} micro-batches, remat {candidate.remat}'
  )


def _short(result: dict[str, Any]) -> str:
  return (
    f'{1e3 * result["step_seconds"]:.0f} ms, MFU {100 * result["mfu"]:.1f} %, '
    f'{result["peak_bytes"] / 2**30:.2f} GiB'
  )


def _depth(run: config.Run) -> int:
  return run.model.transformer.depth if isinstance(run, config.TransfusionRun) else 1


def _model_flops(run: config.Run, parts: build.Parts, batch: Any) -> float:
  shapes, bind = parts.blueprint.shapes, parts.blueprint.definition.bind
  if isinstance(run, config.AutoencoderRun):
    keys = jax.eval_shape(
      lambda: jax.random.split(jax.random.key(0), len(batch.images))
    )

    def loss(params, frozen, batch, keys, step):
      normalizers = parts.objective.normalizers(batch, step)
      return parts.objective(bind(params | frozen), batch, keys, normalizers).total

    step = jax.ShapeDtypeStruct((), jnp.int32)
    return flops.count(jax.grad(loss), shapes, parts.frozen.shapes, batch, keys, step)
  rows, length = batch.tokens.shape
  patches = build.patch_count(run)
  # As many as there is room for, with BOI and EOI around each.
  images = min(run.data.image_slots, length // (patches + 2))
  decoder = run.model.transformer
  # A kernel may say more than the model needs (`ops/attention_tpu.py`).
  plain = build.parts(_with_decoder(run, attention='xla_dense')).blueprint

  def adapter(params, images, t, hidden):
    model = plain.definition.bind(params).adapter
    inward, skip = model.encode(images.astype(decoder.dtype), t)
    return inward, model.decode(hidden, t, skip)

  pictures, t = (
    jax.ShapeDtypeStruct((rows, images, *each.shape[2:]), each.dtype)
    for each in (batch.images, batch.noise_cap)
  )
  hidden = jax.ShapeDtypeStruct((rows, images, patches, decoder.width), decoder.dtype)
  shown = flops.visible_pairs(length=length, images=images, patches=patches)
  return flops.model(
    shapes,
    decoder,
    tokens=rows * length,
    pairs=rows * shown,
    adapter=flops.count(adapter, shapes, pictures, t, hidden),
  )


if __name__ == '__main__':
  command.run(main)
