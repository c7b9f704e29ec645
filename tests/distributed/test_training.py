"""Two processes of four devices train as one of eight does, and one goes on for two.

Batches are the same to the bit, losses nearly: between processes sums over devices are
taken in another order than within one. Each run is compiled without optimization, which
takes longer than the few steps do.
"""

import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import survival
from launch import local
from transfusion_jax.training import metrics

ROOT = pathlib.Path(__file__).parents[2]
STEPS, TOLERANCE = 16, 1e-6

SCENES = {'glyphs': 4, 'colors': 2, 'single': 1.0, 'heldout': 0.0}
SCENES |= dict.fromkeys(('count', 'pair', 'binding', 'story'), 0.0)
CHANGES = {f'data.scenes.{name}': value for name, value in SCENES.items()}
CHANGES |= {'data.rows': 8, 'train.log_every': 1}
CHANGES |= {f'autoencoder.run.{name}': value for name, value in CHANGES.items()}
CHANGES |= {
  'train.checkpoints.every': 5,
  'data.row_length': 64,
  'data.image_slots': 2,
  'data.shards': 4,
  'model.transformer.depth': 1,
  'model.transformer.width': 16,
  'model.transformer.head_dim': 8,
  'model.transformer.mlp': 24,
  'model.transformer.unroll': 1,
  'autoencoder.run.model.channels': 8,
  'autoencoder.run.model.multipliers': '(1,)',
  'autoencoder.run.model.patch': 8,
  'autoencoder.run.model.decoder_blocks': 1,
  'autoencoder.run.train.steps': 2,
  'autoencoder.run.measured': 8,
  'sampling.steps': 2,
  'evaluation.evaluators.scenes.prompts': 2,
  'evaluation.evaluators.scenes.shown': 2,
}


def command(workdir: pathlib.Path, **changes) -> list[str]:
  program = [sys.executable, '-m', 'transfusion_jax.train', f'--workdir={workdir}']
  values = CHANGES | {'train.steps': STEPS} | changes
  flags = [f'--config.{name}={value}' for name, value in values.items()]
  return [*program, '--config=configs/emoji_scenes.py', *flags]


@pytest.fixture(scope='module')
def variables(environment) -> dict[str, str]:
  """Environment of all runs; the launcher says how many devices a process has."""
  return environment(XLA_FLAGS='')


def run(arguments: list[str], variables: dict[str, str]) -> None:
  done = subprocess.run(
    arguments, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=900
  )
  assert done.returncode == 0, done.stderr


@pytest.fixture(scope='module')
def alone(tmp_path_factory, variables) -> pathlib.Path:
  """A run of one process with eight devices that nobody disturbed."""
  workdir = tmp_path_factory.mktemp('alone')
  eight = {**variables, 'JAX_NUM_CPU_DEVICES': '8'}
  run(command(workdir, **{'evaluation.every': -1}), eight)
  return workdir


def losses(workdir: pathlib.Path) -> list[dict]:
  """Everything in `metrics.jsonl` but how long it took."""
  records = metrics.read(workdir / 'metrics.jsonl')
  return [
    {
      name: record[name]
      for name in record
      if 'second' not in name and name != 'data_wait'
    }
    for record in records
  ]


def assert_alike(one: pathlib.Path, other: pathlib.Path) -> None:
  one, other = losses(one), losses(other)
  assert [record['step'] for record in one] == [record['step'] for record in other]
  for record, expected in zip(one, other, strict=True):
    assert record.pop('batches') == expected.pop('batches')
    assert record == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.slow
def test_two_processes_are_one(tmp_path, alone, variables):
  start = [sys.executable, '-m', 'launch.local', '--processes=2', '--devices=4', '--']
  run([*start, *command(tmp_path)], variables)
  assert_alike(tmp_path, alone)
  assert_alike(tmp_path / 'autoencoder', alone / 'autoencoder')
  assert 'scenes/single_object' in json.loads((tmp_path / 'report.json').read_text())


@pytest.mark.slow
def test_two_are_stopped_by_one_signal_and_one_goes_on(tmp_path, alone, variables):
  changes = {'autoencoder.checkpoint': alone / 'autoencoder', 'evaluation.every': -1}
  asked = {'processes': 2, 'devices': 4, 'port': local.free_port()}
  both = [
    subprocess.Popen(
      command(tmp_path, **changes),
      cwd=ROOT,
      env=variables | local.variables(index, **asked),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    for index in range(2)
  ]
  try:
    wait_for_a_step(tmp_path, both)
    both[1].send_signal(signal.SIGTERM)
    assert [each.wait(timeout=300) for each in both] == [42, 42]
  finally:
    for each in both:
      each.kill()
      each.wait()
  stopped = losses(tmp_path)[-1]['step']
  assert stopped < STEPS
  assert (tmp_path / 'checkpoints' / str(stopped)).is_dir()
  run(command(tmp_path, **changes), {**variables, 'JAX_NUM_CPU_DEVICES': '8'})
  assert_alike(tmp_path, alone)


@pytest.mark.slow
def test_two_agree_on_the_newest_step_that_is_good(tmp_path, alone, variables):
  place = tmp_path / 'run'
  shutil.copytree(alone, place)
  assert sorted(p.name for p in (place / 'checkpoints').iterdir()) == ['15', str(STEPS)]
  (arrays,) = (place / 'checkpoints' / str(STEPS) / 'state' / 'd').iterdir()
  survival.flip(arrays, random.Random(0))
  start = [sys.executable, '-m', 'launch.local', '--processes=2', '--devices=4', '--']
  run([*start, *command(place, **{'evaluation.every': -1})], variables)
  assert (place / 'damaged' / str(STEPS)).is_dir()
  assert_alike(place, alone)


def wait_for_a_step(workdir: pathlib.Path, both: list[subprocess.Popen]) -> None:
  deadline = time.monotonic() + 600
  while not losses(workdir):
    assert time.monotonic() < deadline
    assert [each.poll() for each in both] == [None, None]
    time.sleep(0.01)
