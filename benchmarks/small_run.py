"""Small run for `survival`: it can be started, stopped and compared repeatedly.

Two layers of 32, 96 positions, emoji scenes, evaluated and saved every few steps.
"""

import json
import os
import pathlib
import subprocess
import sys

from transfusion_jax.training import storage

ROOT = pathlib.Path(__file__).parent.parent
STEPS, SAVED, EVALUATED = 12, 3, 5
FIRST = 'alone'

SMALL = {
  'data.rows': 4,
  'data.row_length': 96,
  'data.image_slots': 3,
  'model.transformer.depth': 2,
  'model.transformer.width': 32,
  'model.transformer.heads': 2,
  'model.transformer.kv_heads': 1,
  'model.transformer.head_dim': 16,
  'model.transformer.mlp': 48,
  'model.transformer.unroll': 1,
  'sampling.steps': 2,
  'evaluation.every': EVALUATED,
  'evaluation.rows': 4,
  'evaluation.evaluators.scenes.prompts': 2,
  'evaluation.evaluators.scenes.shown': 2,
  'train.log_every': 1,
  'train.checkpoints.every': SAVED,
  'train.checkpoints.newest': 3,
  'autoencoder.run.data.rows': 4,
  'autoencoder.run.model.channels': 16,
  'autoencoder.run.train.steps': 2,
  'autoencoder.run.measured': 64,
}
TIMES = ('tokens_per_second', 'seconds', 'data_wait', 'crc')
"""Metrics that differ between two equal runs."""


class Trial:
  """Run in its own folder that can be started repeatedly.

  Trials in one parent folder share compiled programs, and the autoencoder of the first.
  """

  def __init__(self, folder: pathlib.Path, *, devices: int = 1, **changes: object):
    """Creates the folder.

    Args:
      folder: folder of the run.
      devices: number of devices of each process.
      changes: values of config fields, with `__` for dots in names.
    """
    self.folder, self.devices, self.processes = folder, devices, 1
    self.changes = {name.replace('__', '.'): x for name, x in changes.items()}
    self.heard = 0  # characters that earlier starts have said
    self.left: set[pathlib.Path] = set()  # what killed saves have left
    self.folder.mkdir(parents=True, exist_ok=True)

  def start(self) -> subprocess.Popen:
    """Starts or resumes the run; its output is appended to `said.txt`."""
    programs, first = self.folder.parent / 'programs', self.folder.parent / FIRST
    fields = {**SMALL, 'train.steps': STEPS, 'train.compile_cache': programs}
    if self.folder.name != FIRST and first.exists():
      fields['autoencoder.checkpoint'] = first / 'run' / 'autoencoder'
    fields |= self.changes
    settings = [f'--config.{name}={value}' for name, value in fields.items()]
    arguments = ['--config=configs/emoji_scenes.py', f'--workdir={self.folder / "run"}']
    program = [sys.executable, '-m', 'transfusion_jax.train', *arguments, *settings]
    if self.processes > 1:
      several = (f'--processes={self.processes}', f'--devices={self.devices}', '--')
      program = [sys.executable, '-m', 'launch.local', *several, *program]
    flags = f'--xla_force_host_platform_device_count={self.devices}'
    self.left = {*self.checkpoints.glob('*-tmp*')}
    with (self.folder / 'said.txt').open('ab') as said:
      self.heard = len(self.said())
      return subprocess.Popen(
        program,
        cwd=ROOT,
        env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags},
        stdout=said,
        stderr=said,
      )

  def finish(self) -> None:
    """Runs to the end; RuntimeError with the end of its output if it fails."""
    code = self.start().wait()
    if code:
      raise RuntimeError(f'exit code {code}: {self.said()[-2000:]}')

  def said(self) -> str:
    return (self.folder / 'said.txt').read_text(errors='replace')

  @property
  def checkpoints(self) -> pathlib.Path:
    return self.folder / 'run' / 'checkpoints'

  def saved(self) -> list[int]:
    """Saved steps in ascending order."""
    return storage.numbers(self.checkpoints)

  def lines(self) -> list[dict]:
    """Logged steps with exact values, without the metrics in `TIMES`."""
    path = self.folder / 'run' / 'metrics.jsonl'
    text = path.read_text().splitlines(keepends=True) if path.exists() else []
    records = [json.loads(line) for line in text if line.endswith('\n')]
    return [
      {name: _hex(value) for name, value in record.items() if name not in TIMES}
      for record in records
    ]

  def state(self, checkpoints: pathlib.Path | None = None) -> dict:
    """State from which it would resume: step, progress, digests of all arrays."""
    from transfusion_jax.runs import build, config, restore
    from transfusion_jax.training import checkpoint, mesh, seal, workdir

    run = config.from_dict(restore.read_config(workdir.Workdir(self.folder / 'run')))
    abstract = build.trainer(run, mesh.single()).abstract
    directory = checkpoints or self.checkpoints
    with checkpoint.Checkpoints(directory, run.train.checkpoints) as kept:
      found = kept.restore(abstract)
    return {
      'step': int(found.state.step),
      'data': found.progress['data'],
      'arrays': seal.arrays(found.state),
    }


def same(one: Trial, other: Trial) -> bool:
  """True if two finished runs are equal to the last bit."""
  return one.lines() == other.lines() and one.state() == other.state()


def differences(one: Trial, other: Trial) -> dict[str, float]:
  """Largest relative differences of two runs' losses.

  Raises:
    AssertionError: a batch differs.
  """
  pairs = list(zip(one.lines(), other.lines(), strict=True))
  assert all(a['batches'] == b['batches'] for a, b in pairs), 'batches differ'
  names = [name for name in pairs[0][0] if name.startswith('loss')]
  found = {}
  for name in names:
    both = [[float.fromhex(x[name]) for x in pair] for pair in pairs if name in pair[0]]
    found[name] = max(abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in both)
  return found


def _hex(value):
  return value.hex() if isinstance(value, float) else value
