"""Checkpoints are measured alike on any devices, and once; errors are one line."""

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from configs import base
from tests.support import event_files, saved_run, tiny
from transfusion_jax.core import log, sealed_json
from transfusion_jax.evaluation import evaluator, galleries, report
from transfusion_jax.runs import build, config, evaluate, restore, run_report
from transfusion_jax.training import mesh, metrics, workdir

ROOT = pathlib.Path(__file__).parents[1]
MESHES = {
  'one': None,
  'divided rows': mesh.MeshConfig(data=2, fsdp=4, sequence=1, tensor=1),
  'divided heads': mesh.MeshConfig(data=1, fsdp=2, sequence=2, tensor=2),
}


@pytest.fixture(scope='module')
def prose(tmp_path_factory) -> pathlib.Path:
  path = tmp_path_factory.mktemp('prose') / 'prose.jsonl'
  texts = ['a panda on a blue background', 'a fox', 'a fox on a blue background']
  path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts))
  return path


@pytest.fixture(scope='module')
def place(tmp_path_factory, prose) -> workdir.Workdir:
  made = workdir.Workdir(tmp_path_factory.mktemp('runs') / 'mixed')
  run = config.parse(saved_run.page(prose))
  saved_run.save(run, made, saved_run.STEPS)
  nested = workdir.Workdir(made.autoencoder)
  saved_run.save(run.autoencoder.run, nested, (3,))
  channels = run.autoencoder.run.model.latent_channels
  ones = {'shift': [0.0] * channels, 'scale': [1.0] * channels, 'psnr': 20.0}
  sealed_json.write(nested.latents, ones)
  return made


def writer(place: workdir.Workdir, sizes: mesh.MeshConfig | None):
  devices = mesh.single() if sizes is None else mesh.make(sizes)
  return restore.writer(restore.run_in(place), place, devices)


def found(place: workdir.Workdir, sizes: mesh.MeshConfig | None) -> dict[str, float]:
  """All scores of the newest step on some devices."""
  run = restore.run_in(place)
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
    restore.run_in(place).sampling,
  )
  one, *others = (
    writer(place, sizes).draw(['a fox', 'a panda'], keys, sampling).astype(int)
    for sizes in MESHES.values()
  )
  for name, other in zip(list(MESHES)[1:], others, strict=True):
    assert np.abs(one - other).max() <= 2, name


def test_another_step_and_other_parameters_are_read(place):
  read = functools.partial(
    restore.writer, restore.run_in(place), place, mesh.single(), step=saved_run.STEPS[0]
  )
  assert read(field='params').model.table == read(field='ema').model.table
  with pytest.raises(ValueError, match='one of the steps 5, 7.*found step 6'):
    restore.writer(restore.run_in(place), place, mesh.single(), step=6)


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
  run, place = config.parse(saved_run.page(prose)), workdir.Workdir(tmp_path)
  counting, due = Counting(), functools.partial(evaluate.due, place=place, step=5)
  assert due(run, names=['prose'], field='ema') == ['prose']
  one = {'prose': counting}
  evaluate.evaluate(run, place, tiny.writer(), one, step=5, field='ema')
  assert due(run, names=['prose', 'noise'], field='ema') == ['noise']
  assert due(run, names=['prose'], field='params') == ['prose']
  assert evaluate.due(run, place, ['prose'], step=7, field='ema') == ['prose']
  sampling = dataclasses.replace(run.sampling, guidance=9.0)
  other = dataclasses.replace(run, sampling=sampling)
  assert due(other, names=['prose'], field='ema') == ['prose']
  (record,) = metrics.read(place.evaluation)
  assert record['values'] == {'calls': 1.0, 'nothing': None}
  (file,) = place.board('evaluation').iterdir()
  assert event_files.scalars(file)[0] == ('prose/calls', 5, 1.0)
  shown = galleries.load(place.galleries(5, 'prose'))['shown']
  assert (shown.title, shown.note) == ('Shown', 'A note.')
  assert (shown.tiles[0].text, shown.tiles[0].good) == ('a fox', False)
  assert (shown.tiles[0].picture == 9).all()


@dataclasses.dataclass
class Failing:
  """Finds something, and then fails."""

  error: BaseException

  def check(self):
    pass

  def __call__(self, writer):
    yield 'first', 1.0
    tile = report.Tile(
      np.zeros((4, 4, 3), np.uint8), 'a <b>fox</b>\nhere', None, 'a dog'
    )
    yield 'shown', report.Gallery('Before it failed', 'A note.', (tile,))
    raise self.error


@pytest.fixture
def warned(monkeypatch) -> list[str]:
  said: list[str] = []
  monkeypatch.setattr(log, 'warning', said.append)
  return said


def begun(folder: pathlib.Path, prose: pathlib.Path):
  run, place = config.parse(saved_run.page(prose)), workdir.Workdir(folder)
  place.write_config(config.to_dict(run))
  return run, place


def test_an_evaluator_that_fails_is_told_and_the_others_go_on(tmp_path, prose, warned):
  run, place = begun(tmp_path, prose)
  both = {'prose': Failing(RuntimeError('too\nbad')), 'noise': Counting()}
  failed = evaluate.evaluate(run, place, tiny.writer(), both, step=5, field='ema')
  assert list(failed) == ['prose']
  assert warned == ['step 5, prose failed: RuntimeError: too bad']
  first, second = metrics.read(place.evaluation)
  assert (first['values'], first['error']) == ({'first': 1.0}, 'RuntimeError: too bad')
  assert second['values']['calls'] == 1.0
  assert 'error' not in second
  due = evaluate.due(run, place, ['prose', 'noise'], step=5, field='ema')
  assert due == ['prose']
  run_report.write(place)
  text = (tmp_path / 'report.html').read_text()
  assert 'Evaluator prose failed at step 5: RuntimeError: too bad' in text
  assert 'Before it failed' in text
  assert 'a &lt;b&gt;fox&lt;/b&gt;' in text
  again = {'prose': Counting()}
  assert not evaluate.evaluate(run, place, tiny.writer(), again, step=5, field='ema')
  run_report.write(place)
  assert 'failed' not in (tmp_path / 'report.html').read_text()


@pytest.mark.parametrize(
  ('error', 'code'),
  [(ValueError('a'), 2), (OSError(28, 'full'), 1), (KeyError('a'), 1)],
)
def test_a_command_ends_with_what_failed(error, code):
  found, line = evaluate.failure({'prose': error, 'noise': ValueError('b')})
  assert found == code
  assert line.startswith('error: expected scores of all evaluators, found that some')
  assert '\n' not in line


def test_storage_that_fails_is_no_end(tmp_path, prose, warned, monkeypatch):
  run, place = begun(tmp_path, prose)

  def full(*_):
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(evaluate.galleries, 'save', full)
    both = {'prose': Counting(), 'noise': Counting()}
    failed = evaluate.evaluate(run, place, tiny.writer(), both, step=5, field='ema')
  assert set(failed) == {'prose', 'noise'}
  assert all('No space left' in line for line in warned)
  assert len(warned) == 2


def test_a_signal_goes_through_a_failing_evaluator(tmp_path, prose):
  run, place = begun(tmp_path, prose)
  one = {'prose': Failing(KeyboardInterrupt())}
  with pytest.raises(KeyboardInterrupt):
    evaluate.evaluate(run, place, tiny.writer(), one, step=5, field='ema')


def test_images_and_texts_are_shown_by_tensorboard(tmp_path, prose, warned):
  run, place = begun(tmp_path, prose)
  one = {'prose': Failing(RuntimeError('bad'))}
  evaluate.evaluate(run, place, tiny.writer(), one, step=5, field='ema')
  (file,) = place.board('evaluation').iterdir()
  values = {
    value.tag: value
    for event in event_files.events(file)
    for value in event.summary.value
  }
  shown = values['prose/shown/01'].image
  assert (shown.height, shown.width) == (4, 4)
  assert shown.encoded_image_string.startswith(b'\x89PNG')
  (text,) = values['prose/shown/text_summary'].tensor.string_val
  assert text.decode() == '1. a <b>fox</b> here (in the data: a dog)'


DAMAGE = {
  'a picture that has gone': lambda folder: (folder / 'shown_000.png').unlink(),
  'a picture of something else': lambda folder: (folder / 'shown_000.png').write_bytes(
    (folder / 'shown_000.png').read_bytes() + b'.'
  ),
  'a list that is cut short': lambda folder: (folder / 'gallery.json').write_text('{'),
  'a list of another kind': lambda folder: (folder / 'gallery.json').write_text('[]'),
  'a digit': lambda folder: (folder / 'gallery.json').write_text(
    (folder / 'gallery.json').read_text().replace('A note', 'B note')
  ),
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_gallery_does_not_lose_the_report(tmp_path, prose, warned, damage):
  run, place = begun(tmp_path, prose)
  both = {'prose': Counting(), 'noise': Counting()}
  evaluate.evaluate(run, place, tiny.writer(), both, step=5, field='ema')
  DAMAGE[damage](place.galleries(5, 'prose'))
  run_report.write(place)
  (line,) = warned
  assert str(place.galleries(5, 'prose')) in line
  text = (tmp_path / 'report.html').read_text()
  assert text.count('<h2>Shown</h2>') == 1
  assert 'What is missing' in text
  assert 'noise/' in text


@pytest.mark.parametrize('content', ['', '[]', '{"seconds": 1}', '{"a": ' * 200])
def test_damaged_facts_do_not_lose_the_report(tmp_path, prose, warned, content):
  run, place = begun(tmp_path, prose)
  evaluate.evaluate(
    run, place, tiny.writer(), {'prose': Counting()}, step=5, field='ema'
  )
  place.facts.write_text(content)
  nested = workdir.Workdir(place.autoencoder)
  nested.root.mkdir()
  nested.latents.write_text('[1')
  run_report.write(place)
  assert len(warned) == 2
  assert 'facts.json' in warned[0]
  assert 'latents.json' in warned[1]
  assert '<h2>Shown</h2>' in (tmp_path / 'report.html').read_text()


def test_a_run_without_numbers_has_a_report(tmp_path, prose):
  _, place = begun(tmp_path, prose)
  place.metrics.write_text('')
  run_report.write(place)
  assert 'Nothing was logged.' in (tmp_path / 'report.html').read_text()
  nan = '{"step": 1, "loss": NaN}\n{"step": 2, "loss": Infinity}\n'
  place.metrics.write_text(nan)
  run_report.write(place)


def test_evaluators_try_their_data_before_a_run(tmp_path, prose):
  """Pictures without text: their perplexity was found to be none in training."""
  pictures = tmp_path / 'pictures'
  pictures.mkdir()
  for number in range(3):
    Image.fromarray(tiny.picture(number)).save(pictures / f'{number}.png')
  broken = tmp_path / 'broken'
  broken.mkdir()
  for number in range(3):
    (broken / f'{number}.png').write_bytes(b'nothing')
  bad = {
    'perplexity': base.source('folder', str(pictures), form='text'),
    'image_loss': base.source('folder', str(broken), form='picture'),
    'drawings': base.source('folder', str(pictures)),
  }
  for kind, source in bad.items():
    made = saved_run.page(prose)
    counts = {'prompts': 2, 'pictures': 2} if kind == 'drawings' else {}
    base.evaluate(made, some=base.evaluator(kind, source, **counts))
    run = config.parse(made)
    with pytest.raises(ValueError, match='evaluation.evaluators.some: ') as error:
      build.evaluators(run, run.evaluation.evaluators)
    assert '\n' not in str(error.value)


CASES = {
  'an empty name': (['--workdir={mixed}', '--only=,'], "found '' in --only"),
  'another kind of config': (['--workdir={mixed}',
                              '--evaluation=configs/emoji_autoencoder.py'],
                             'a config of a mixed run'),
  'no rows': (['--workdir={mixed}', '--config.evaluation.rows=0'], 'rows >= 1'),
  'a step below 0': (['--workdir={mixed}', '--step=-1'], 'latest, all or watch'),
  'a run': (['--workdir={empty}'], 'config.json'),
  'a schema': (['--workdir={old}'], 'expected schema version 2, found none'),
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
  made = saved_run.page(prose)
  made.data.image_slots = 0
  made.optimizer.ema_decay = 0.0
  text = workdir.Workdir(tmp_path / 'text')
  saved_run.save(config.parse(made), text, (7,))
  (tmp_path / 'empty').mkdir()
  old = workdir.Workdir(tmp_path / 'old')
  old.root.mkdir()
  sealed_json.write(old.config, config.to_dict(config.parse(saved_run.page(prose))))
  names = {'mixed': place.root, 'text': text.root, 'empty': tmp_path / 'empty'}
  names['old'] = old.root
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
  assert [record['step'] for record in records] == list(saved_run.STEPS)
  assert {record['values']['documents'] for record in records} == {2}
  written = json.loads((place.root / 'report.json').read_text())
  assert written['prose/documents'] == 2
  assert written['autoencoder_psnr'] == 20.0
  output = tmp_path / 'page.html'
  run('report', f'--workdir={place.root}', f'--output={output}')
  assert 'prose/' in output.read_text()
