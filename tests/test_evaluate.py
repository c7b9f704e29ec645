"""Checkpoints are measured alike on any devices, and once; errors are one line."""

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, emoji_scenes
from tests import tiny
from tests.training import test_tensorboard
from transfusion_jax import build, config, results, trained
from transfusion_jax.evaluation import evaluator, galleries, report
from transfusion_jax.training import checkpoint, mesh, metrics, workdir

ROOT = pathlib.Path(__file__).parents[1]
STEPS = (5, 7)
MESHES = {
  'one': None,
  'divided rows': mesh.MeshConfig(data=2, fsdp=4, sequence=1, tensor=1),
  'divided heads': mesh.MeshConfig(data=1, fsdp=2, sequence=2, tensor=2),
}


def filled(leaf: jax.ShapeDtypeStruct) -> jax.Array:
  """Numbers for an array of a state, where it belongs."""
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jax.device_put(jax.random.key(0), leaf.sharding)
  numbers = 0.2 * np.random.default_rng(leaf.size).normal(size=leaf.shape)
  return jax.device_put(numbers.astype(leaf.dtype), leaf.sharding)


def save(run: config.Run, place: workdir.Workdir, steps: tuple[int, ...]) -> None:
  """A run as it looks after training, but for its numbers, saved by eight devices."""
  place.root.mkdir(parents=True, exist_ok=True)
  workdir.write_json(place.config, config.to_dict(run))
  abstract = build.trainer(run, mesh.make(run.mesh)).abstract
  state = jax.tree.map(filled, abstract)
  with checkpoint.Checkpoints(
    place.checkpoints, dataclasses.replace(checkpoint.ONE, newest=9)
  ) as kept:
    for step in steps:
      kept.save(dataclasses.replace(state, step=jnp.int32(step)), {})


def page(prose: pathlib.Path, **changes):
  """A small run with an evaluator of each kind."""
  made = emoji_scenes.get_config()
  made.update(changes)
  made.model.transformer.update(depth=1, width=16, heads=2, kv_heads=2, head_dim=8)
  made.model.transformer.update(mlp=24, unroll=1)
  made.autoencoder.run.model.update(channels=8, multipliers=(1,), patch=8)
  made.autoencoder.run.model.update(decoder_blocks=1)
  made.train.steps = STEPS[-1]
  made.sampling.steps = 2
  made.evaluation.rows = 4
  base.evaluate(
    made,
    prose=base.evaluator(
      'perplexity', base.source('json_lines', str(prose), form='text')
    ),
    noise=base.evaluator('image_loss', base.source('emoji_scenes'), documents=6),
  )
  return made


@pytest.fixture(scope='module')
def prose(tmp_path_factory) -> pathlib.Path:
  path = tmp_path_factory.mktemp('prose') / 'prose.jsonl'
  texts = ['a panda on a blue background', 'a fox', 'a fox on a blue background']
  path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts))
  return path


@pytest.fixture(scope='module')
def place(tmp_path_factory, prose) -> workdir.Workdir:
  made = workdir.Workdir(tmp_path_factory.mktemp('runs') / 'mixed')
  run = config.parse(page(prose))
  save(run, made, STEPS)
  nested = workdir.Workdir(made.autoencoder)
  save(run.autoencoder.run, nested, (3,))
  channels = run.autoencoder.run.model.latent_channels
  ones = {'shift': [0.0] * channels, 'scale': [1.0] * channels, 'psnr': 20.0}
  workdir.write_json(nested.latents, ones)
  return made


def writer(place: workdir.Workdir, sizes: mesh.MeshConfig | None):
  devices = mesh.single() if sizes is None else mesh.make(sizes)
  return trained.writer(trained.run_in(place), place, devices)


def found(place: workdir.Workdir, sizes: mesh.MeshConfig | None) -> dict[str, float]:
  """All scores of the newest step on some devices."""
  run = trained.run_in(place)
  made = build.evaluators(run, run.evaluation.evaluators)
  scores: dict[str, float] = {}
  for outcome in evaluator.run(made, writer(place, sizes)):
    scores |= evaluator.prefixed(outcome.name, outcome.values)
  return scores


def test_what_eight_devices_saved_scores_alike_on_any(place):
  scores = found(place, MESHES['one'])
  assert scores['prose/documents'] == 3
  assert scores['noise/pictures'] >= 6
  for name in ('divided rows', 'divided heads'):
    assert found(place, MESHES[name]) == pytest.approx(scores, rel=1e-5), name


def test_what_eight_devices_saved_is_drawn_alike_by_all(place):
  keys, sampling = (
    jax.random.split(jax.random.key(0), 2),
    trained.run_in(place).sampling,
  )
  one, *others = (
    writer(place, sizes).draw(['a fox', 'a panda'], keys, sampling).astype(int)
    for sizes in MESHES.values()
  )
  for name, other in zip(list(MESHES)[1:], others, strict=True):
    assert np.abs(one - other).max() <= 2, name


def test_another_step_and_other_parameters_are_read(place):
  read = functools.partial(
    trained.writer, trained.run_in(place), place, mesh.single(), step=STEPS[0]
  )
  assert read(field='params').model.table == read(field='ema').model.table
  with pytest.raises(ValueError, match='one of the steps 5, 7.*found step 6'):
    trained.writer(trained.run_in(place), place, mesh.single(), step=6)


@dataclasses.dataclass
class Counting:
  """Yields a number and a picture, and counts its calls."""

  calls: int = 0

  def check(self):
    pass

  def __call__(self, writer):
    self.calls += 1
    yield 'calls', float(self.calls)
    yield 'nothing', float('nan')
    tile = report.Tile(np.full((4, 4, 3), 9, np.uint8), 'a fox', False)
    yield 'shown', report.Gallery('Shown', 'A note.', (tile,))


def test_results_are_kept_and_not_found_twice(tmp_path, prose):
  run, place = config.parse(page(prose)), workdir.Workdir(tmp_path)
  counting, due = Counting(), functools.partial(results.due, place=place, step=5)
  assert due(run, names=['prose'], field='ema') == ['prose']
  one = {'prose': counting}
  results.evaluate(run, place, tiny.writer(), one, step=5, field='ema')
  assert due(run, names=['prose', 'noise'], field='ema') == ['noise']
  assert due(run, names=['prose'], field='params') == ['prose']
  assert results.due(run, place, ['prose'], step=7, field='ema') == ['prose']
  sampling = dataclasses.replace(run.sampling, guidance=9.0)
  other = dataclasses.replace(run, sampling=sampling)
  assert due(other, names=['prose'], field='ema') == ['prose']
  (record,) = metrics.read(place.evaluation)
  assert record['values'] == {'calls': 1.0, 'nothing': None}
  (file,) = place.board('evaluation').iterdir()
  assert test_tensorboard.scalars(file) == [('prose/calls', 5, 1.0)]
  shown = galleries.load(place.galleries(5, 'prose'))['shown']
  assert (shown.title, shown.note) == ('Shown', 'A note.')
  assert (shown.tiles[0].text, shown.tiles[0].good) == ('a fox', False)
  assert (shown.tiles[0].picture == 9).all()


CASES = {
  'a run': (['--workdir={empty}'], 'config.json'),
  'a step': (['--workdir={mixed}', '--step=6'], 'one of the steps 5, 7'),
  'a number': (['--workdir={mixed}', '--step=last'], 'latest, all or watch'),
  'an autoencoder': (['--workdir={mixed}/autoencoder'], "kind 'autoencoder'"),
  'no average': (['--workdir={text}', '--params=ema'], 'ema_decay=0'),
  'a name': (['--workdir={mixed}', '--only=pros'], "did you mean 'prose'"),
  'no file': (['--workdir={mixed}', '--config.evaluation.evaluators.prose.source.'
               'path={empty}/none.jsonl'], 'none.jsonl'),
  'a misspelling': (['--workdir={mixed}', '--config.evaluation.row=3'], 'rows'),
  'another model': (['--workdir={mixed}', '--config.seed=3'], 'seed'),
  'no pictures': (['--workdir={text}', '--params=params'], 'image_slots=0'),
  'no folder': ([], '--workdir=DIR'),
}  # fmt: skip

PROGRAM = """
import sys
from absl import flags
from transfusion_jax import evaluate
from transfusion_jax.core import command
for line in sys.stdin.read().splitlines():
  sys.argv = ['evaluate', *line.split()]
  try:
    command.run(evaluate.main, config=evaluate.page)
  except SystemExit as exit:
    print(f'exit {exit.code}', file=sys.stderr)
  flags.FLAGS.unparse_flags()
  for name in list(flags.FLAGS):
    if name == 'config' or name.startswith('config.'):
      delattr(flags.FLAGS, name)
    else:
      flags.FLAGS[name].unparse()
"""


def test_what_a_user_can_mend_is_one_line(place, prose, tmp_path, environment):
  made = page(prose)
  made.data.image_slots = 0
  made.optimizer.ema_decay = 0.0
  text = workdir.Workdir(tmp_path / 'text')
  save(config.parse(made), text, (7,))
  (tmp_path / 'empty').mkdir()
  names = {'mixed': place.root, 'text': text.root, 'empty': tmp_path / 'empty'}
  lines = [' '.join(flags).format(**names) for flags, _ in CASES.values()]
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM],
    input='\n'.join([*lines, '']),
    cwd=ROOT,
    env=environment(),
    capture_output=True,
    text=True,
  )
  said = done.stderr.strip().splitlines()
  assert said[1::2] == ['exit 2'] * len(CASES), done.stderr
  for (name, (_, expected)), line in zip(CASES.items(), said[::2], strict=True):
    assert expected in line, name


def command(name: str, *flags: str, environment) -> subprocess.CompletedProcess[str]:
  done = subprocess.run(
    [sys.executable, '-m', f'transfusion_jax.{name}', *flags],
    cwd=ROOT,
    env=environment(devices=2),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return done


def test_evaluators_come_from_another_config(place, tmp_path, prose, environment):
  file = tmp_path / 'other.py'
  file.write_text(
    'from configs import base\n\n\n'
    'def get_config():\n'
    '  run = base.transfusion()\n'
    f'  source = base.source("json_lines", "{prose}", form="text")\n'
    '  base.evaluate(run, other=base.evaluator("perplexity", source, documents=1))\n'
    '  return run\n'
  )
  flags = (f'--workdir={place.root}', f'--evaluation={file}', '--params=params')
  command('evaluate', *flags, '--step=5', environment=environment)
  *_, record = metrics.read(place.evaluation)
  assert (record['name'], record['step']) == ('other', 5)
  assert (record['parameters'], record['values']['documents']) == ('params', 1)
  assert 'other.params/documents' in (place.root / 'report.json').read_text()
  done = command('evaluate', *flags, '--step=5', environment=environment)
  assert 'step 5: nothing to do' in done.stderr


def test_the_command_watches_a_run_to_its_end_and_reports(place, tmp_path, environment):
  run = functools.partial(command, environment=environment)
  run(
    'evaluate',
    f'--workdir={place.root}',
    '--step=watch',
    '--only=prose',
    '--config.evaluation.evaluators.prose.documents=2',
  )
  records = [r for r in metrics.read(place.evaluation) if r['name'] == 'prose']
  assert [record['step'] for record in records] == list(STEPS)
  assert {record['values']['documents'] for record in records} == {2}
  written = json.loads((place.root / 'report.json').read_text())
  assert written['prose/documents'] == 2
  assert written['autoencoder_psnr'] == 20.0
  output = tmp_path / 'page.html'
  run('report', f'--workdir={place.root}', f'--output={output}')
  assert 'prose/' in output.read_text()
