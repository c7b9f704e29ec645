"""Report about a compiled step: numbers for JSON, and lines for people."""

from typing import Any

from transfusion_jax.compiling import hlo, program, timeline, topologies

METHOD = (
  'estimated by the compiler, never held against hardware: a large matrix product '
  'alone comes out at 88 % (v5e), 90 % (v5p), 70 % (v6e, tpu7x) of the peak, and the '
  'clock of v5p and tpu7x is uncertain by 17 %; compare variants by ratio'
)


def measure(
  made: program.Program,
  *,
  topology: topologies.Topology,
  mesh: Any,
  state: Any,
  batch: Any,
  trips: int,
  model_flops: float,
) -> dict[str, Any]:
  """Numbers about a compiled step: bytes and seconds per device, FLOPs of all devices.

  Args:
    made: compiled step.
    topology: topology that it is compiled for.
    mesh: mesh of its devices.
    state: `TrainState` of shapes with shardings.
    batch: shapes with shardings.
    trips: iterations of loops of unknown length: the number of layers.
    model_flops: FLOPs of the model, without recomputation.
  """
  chip = topology.chip
  parsed = hlo.parse(made.text)
  estimate = timeline.Reader(parsed, mesh, chip, trips=trips).estimate()
  seconds = estimate.seconds
  ideal = model_flops / (chip.peak * topology.devices)
  return {
    'topology': topology.name,
    'slices': topology.slices,
    'devices': topology.devices,
    'mesh': dict(mesh.shape),
    'compile_seconds': made.seconds,
    'hbm_bytes': chip.hbm_bytes,
    'peak_bytes': made.peak_bytes,
    'fits': made.peak_bytes <= chip.hbm_bytes,
    'parameter_bytes': program.shard_bytes(state.params),
    'average_bytes': program.shard_bytes(state.ema),
    'optimizer_bytes': program.shard_bytes(state.opt_state),
    'batch_bytes': program.shard_bytes(batch),
    'activation_bytes': made.temporaries,
    'model_flops': model_flops,
    'program_flops': made.flops,
    'ideal_seconds': ideal,
    'step_seconds': seconds,
    'computing_seconds': estimate.computing,
    'products_seconds': estimate.products,
    'kernels_seconds': estimate.kernels,
    'synchronous_seconds': estimate.synchronous,
    'waiting_seconds': estimate.waiting,
    'mfu': ideal / seconds if seconds else 0.0,
    'unknown_kernels': estimate.unknown,
    'unknown_loops': estimate.unknown_loops,
    'assumed_rounds': trips,
    'untimed': estimate.untimed,
    'untimed_bytes': estimate.untimed_bytes,
    'collectives': timeline.totals(estimate),
    'replicated': program.replicated(state.params),
    'method': METHOD,
  }


def lines(result: dict[str, Any], *, shown: int = 12) -> list[str]:
  """Lines for people, with the slowest collectives only."""
  mesh = ' x '.join(f'{name} {size}' for name, size in result['mesh'].items())
  told = [
    f'{result["topology"]} x {result["slices"]}, {result["devices"]} devices: {mesh}',
    f'compiled in {result["compile_seconds"]:.0f} s',
    f'memory per device: {_gib(result["peak_bytes"])} of {_gib(result["hbm_bytes"])}, '
    + ('fits' if result['fits'] else 'DOES NOT FIT'),
    f'  parameters {_gib(result["parameter_bytes"])}, their average '
    f'{_gib(result["average_bytes"])}, optimizer {_gib(result["optimizer_bytes"])}, '
    f'batch {_gib(result["batch_bytes"])}, activations '
    f'{_gib(result["activation_bytes"])}',
    f'FLOPs per step: model {result["model_flops"]:.4g}, program '
    f'{result["program_flops"]:.4g}',
    f'step {1e3 * result["step_seconds"]:.1f} ms, MFU {100 * result["mfu"]:.1f} %: '
    f'computing {1e3 * result["computing_seconds"]:.1f} ms, synchronous collectives '
    f'{1e3 * result["synchronous_seconds"]:.1f} ms, waiting for the others '
    f'{1e3 * result["waiting_seconds"]:.1f} ms',
    f'  computing: products {1e3 * result["products_seconds"]:.1f} ms (model, at the '
    f'peak: {1e3 * result["ideal_seconds"]:.1f} ms), kernels '
    f'{1e3 * result["kernels_seconds"]:.1f} ms, the rest '
    f'{1e3 * _rest(result):.1f} ms',
    f'  ({result["method"]})',
  ]
  told += _gaps(result)
  told.append('collectives:        count      MiB       ms  exposed  mesh axes')
  for each in result['collectives'][:shown]:
    told.append(
      f'  {each["kind"]:18}{each["count"]:5}{each["bytes"] / 2**20:9.2f}'
      f'{1e3 * each["seconds"]:9.2f}{1e3 * each["waited_seconds"]:9.2f}  '
      f'{" ".join(each["axes"]) or "none"}'
      f'{", asynchronous" if each["overlaps"] else ""}: {_tail(each["operation"])}'
    )
  rest = result['collectives'][shown:]
  if rest:
    total = 1e3 * sum(each['seconds'] for each in rest)
    told.append(f'  and {len(rest)} other kinds, {total:.2f} ms in all')
  for each in result['replicated']:
    told.append(
      f'large but whole on every device: {each["name"]} {each["shape"]}, '
      f'{each["bytes"] / 2**20:.1f} MiB'
    )
  return told


def _gaps(result: dict[str, Any]) -> list[str]:
  """Omissions and assumptions of the estimate, one line each."""
  told = []
  if result['unknown_kernels']:
    told.append(
      f'  {result["unknown_kernels"]} kernel calls have no cost estimate and count as '
      'no time: the step takes longer'
    )
  if result['unknown_loops']:
    told.append(
      f'  {result["unknown_loops"]} loops do not say how long they run and count as '
      f'{result["assumed_rounds"]} rounds each: the step takes longer or shorter'
    )
  if result['untimed']:
    told.append(
      f'  {result["untimed"]} large instructions, which write '
      f'{_gib(result["untimed_bytes"])}, have no cycles and count as no time: the step '
      'takes longer'
    )
  return told


def _rest(result: dict[str, Any]) -> float:
  known = result['products_seconds'] + result['kernels_seconds']
  return result['computing_seconds'] - known


def _gib(count: int) -> str:
  return f'{count / 2**30:.2f} GiB'


def _tail(operation: str) -> str:
  return '/'.join(operation.split('/')[-3:])
