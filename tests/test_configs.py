"""Every config builds, and its state and step trace abstractly."""

import importlib
import math
import pathlib
import re

import jax
import ml_collections
import pytest

from configs import base, emoji_tasks
from transfusion_jax.core import tree
from transfusion_jax.runs import build, config, preflight
from transfusion_jax.training import state as state_lib
from transfusion_jax.training import step

FOLDER = pathlib.Path(__file__).parent.parent / 'configs'
PAPER = {'160m': 162.4e6, '370m': 373.9e6, '760m': 777.9e6, '1_4b': 1364.3e6}
PAPER |= {'7b': 6738.4e6}
"""Parameters without adapters, from the spec's section 5 (checked against Llama)."""

OVERHEAD = {'160m': 0.5, '370m': 0.4, '760m': 0.4, '1_4b': 0.4, '7b': 0.3}
"""Share of the linear adapter in percent: Transfusion, Table 7."""


def _every_config() -> list[tuple[str, ...]]:
  names = sorted(path.stem for path in FOLDER.glob('*.py'))
  names = [name for name in names if name not in ('__init__', 'base')]
  sized = [name for name in names if name.removeprefix('transfusion_') in base.SIZES]
  cases = [(name,) for name in names if name not in sized]
  cases += [('emoji_autoencoder', 'perceptual')]
  return cases + [(name, kind) for name in sized for kind in ('linear', 'unet')]


def load(name: str, *arguments: str) -> config.Run:
  module = importlib.import_module(f'configs.{name}')
  return config.parse(module.get_config(*arguments))


@pytest.mark.parametrize('case', _every_config(), ids='-'.join)
def test_config_checks_and_its_step_traces(case):
  run = load(*case)
  if case[0] in ('folder', 'coco_30k'):  # nobody's pictures are here
    preflight.check_model(run)
  else:
    preflight.check(run)
  parts = build.parts(run)
  average = run.optimizer.ema_decay > 0
  state = jax.eval_shape(
    lambda key: state_lib.initial(parts.blueprint.init, parts.tx, key, average=average),
    jax.random.key(0),
  )
  one_step = step.make_step(
    parts.blueprint.definition.bind,
    parts.objective,
    parts.tx,
    microbatches=run.train.microbatches,
    ema_decay=run.optimizer.ema_decay,
    spike=run.train.guard.spike,
  )
  batch = build.batch_shapes(run, run.data.rows)
  after, metrics = jax.eval_shape(one_step, state, batch, parts.frozen.shapes)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
    lambda x: (x.shape, x.dtype), state
  )
  assert metrics['loss'].shape == ()


@pytest.mark.parametrize('size', PAPER)
def test_parameters_of_the_paper(size):
  linear = build.parts(load(f'transfusion_{size}', 'linear')).blueprint.shapes
  unet = build.parts(load(f'transfusion_{size}', 'unet')).blueprint.shapes
  adapter = tree.size(linear['adapter'])
  decoder = tree.size(linear) - adapter
  assert math.isclose(decoder, PAPER[size], rel_tol=0.01)
  assert round(100 * adapter / decoder, 1) == OVERHEAD[size]
  assert 0.25e9 < tree.size(unet['adapter']) < 0.285e9


def test_a_misspelt_field_is_an_error():
  run = base.transfusion()
  with pytest.raises((AttributeError, KeyError), match='learning_rate'):
    run.optimizer.learning_rat = 1.0


def test_missing_and_ill_typed_fields_are_all_named():
  run = importlib.import_module('configs.emoji_scenes').get_config()
  values = config.to_dict(config.parse(run))
  del values['train']['steps']
  values['objective']['target'] = 'magic'
  values['optimizer']['clip'] = 'one'
  values['model']['extra'] = 1
  with pytest.raises(ValueError) as error:
    config.from_dict(values)
  for path in ('train.steps', 'objective.target', 'optimizer.clip', 'model.extra'):
    assert path in str(error.value)


def test_a_config_survives_json():
  run = load('emoji_scenes')
  assert config.from_dict(config.to_dict(run)) == run


def test_unknown_kind():
  with pytest.raises(ValueError, match='kind'):
    config.parse(ml_collections.ConfigDict({'kind': 'other'}))


def unknown_fields(text: str, known: set[str]) -> list[str]:
  """Fields that a page sets and no config has; sources have names of their own."""
  named = re.findall(r'--config\.([a-z][\w.]+)=', text)
  return [n for n in named if re.sub(r'sources\.\w+', 'sources.scenes', n) not in known]


def test_pages_name_fields_that_are_there():
  root = FOLDER.parent
  files = [root / 'README.md', root / 'launch/README.md', *FOLDER.glob('*.py')]
  files += [*root.glob('transfusion_jax/**/*.py'), *root.glob('launch/*.py')]
  known = {'.'.join(path) for path in tree.flatten(emoji_tasks.get_config().to_dict())}
  found = {str(path): unknown_fields(path.read_text(), known) for path in files}
  assert not {name: fields for name, fields in found.items() if fields}
  assert unknown_fields('--config.train.step=3', known) == ['train.step']
