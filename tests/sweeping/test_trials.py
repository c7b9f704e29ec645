"""From a config file to trials: everything that `train` would refuse, found at once."""

import pathlib

import pytest

from transfusion_jax.core import renamed, tree
from transfusion_jax.runs import config
from transfusion_jax.sweeping import trials

# ml_collections loads config files with it.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module')

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def swept(tmp_path):
  """Writes a config file with this body of `sweep()`."""

  def write(*lines: str) -> str:
    path = tmp_path / 'swept.py'
    body = '\n  '.join(lines)
    path.write_text(
      f'from configs.emoji_scenes import get_config\n\n\ndef sweep():\n  {body}\n'
    )
    return str(path)

  return write


def test_the_shipped_sweep_is_nine_trials():
  file = str(ROOT / 'configs' / 'emoji_ablations.py')
  found, problems = trials.from_file(file, {})
  assert not problems
  assert [each.number for each in found] == list(range(9))
  assert not found[0].overrides
  weights = [each.run.objective.image_weight for each in found[:3]]
  assert weights == [5.0, 1.0, 20.0]
  unet = found[6].run.model.adapter
  assert (unet.kind, unet.unet.patch) == ('unet', 2)
  # What differs from the first trial is what is overridden, and nothing else.
  first = config.to_dict(found[0].run)
  for each in found[1:]:
    lines = tree.differences(first, config.to_dict(each.run))
    assert {line.split(':')[0] for line in lines} == each.overrides.keys()


def test_flags_say_what_the_override_says(swept):
  file = swept(
    "yield {'seed': 3, 'model': {'adapter': {'unet': {'widths': [8, 16]}}}}",
    "yield {'optimizer.learning_rate': 1e-5, 'autoencoder.sample': True}",
    "yield {'model.adapter.unet.widths': (8,), 'objective.target': 'v'}",
  )
  found, problems = trials.from_file(file, {'train.steps': 7})
  assert not problems
  assert found[0].run.model.adapter.unet.widths == (8, 16)
  assert found[1].run.optimizer.learning_rate == 1e-5
  assert found[1].run.autoencoder.sample is True
  assert found[2].run.model.adapter.unet.widths == (8,)
  assert {each.run.train.steps for each in found} == {7}
  assert found[2].command(pathlib.Path('there')) == [
    *('python', '-m', 'transfusion_jax.train', f'--config={file}'),
    *('--config.train.steps=7', '--config.model.adapter.unet.widths=(8,)'),
    *('--config.objective.target=v', '--workdir=there'),
  ]


BAD = {
  'a field that is misspelt': ("{'optimizer.learning_rat': 1.0}", 'learning_rat'),
  'a section that is misspelt': ("{'objectiv': {'target': 'v'}}", 'objectiv'),
  'a wrong type': ("{'train.steps': 1.5}", '1.5'),
  'not a choice': ("{'objective.target': 'magic'}", 'epsilon'),
  'an impossible value': ("{'train.steps': 0}", 'positive steps'),
  'values that do not fit': ("{'model.adapter.linear.patch': 3}", 'patch size 3'),
  'a missing file': ("{'autoencoder.checkpoint': 'nowhere'}", 'nowhere'),
  'no value for a flag': ("{'seed': None}", 'None'),
  'a field twice': ("{'train.steps': 1, 'train': {'steps': 2}}", 'once'),
  'a field of the command line': ("{'seed': 4}", 'command line'),
}


def test_every_bad_override_is_a_line_and_good_ones_are_none(swept):
  lines = [f'yield {override}' for override, _ in BAD.values()]
  file = swept("yield {'train.steps': 5}", *lines, "yield {'train.steps': 6}")
  found, problems = trials.from_file(file, {'seed': 1})
  assert [each.run.train.steps for each in found] == [5, 6]
  assert len(problems) == len(BAD)
  for line, (what, (_, word)) in zip(problems, BAD.items(), strict=True):
    assert word in line, what
    assert line.startswith('trial 0')
    assert '\n' not in line


def test_an_override_comes_once(swept):
  file = swept("yield {'seed': 1}", "yield {'seed': 2}", "yield {'seed': 1}")
  found, _ = trials.from_file(file, {})
  assert [each.overrides for each in found] == [{'seed': 1}, {'seed': 2}]


def test_a_file_without_a_sweep_is_refused(swept):
  with pytest.raises(ValueError, match=r'expected sweep\(\)'):
    trials.from_file(str(ROOT / 'configs' / 'emoji_scenes.py'), {})
  with pytest.raises(ValueError, match='found none'):
    trials.from_file(swept('return []'), {})


def test_an_old_field_in_an_override_is_told_with_its_new_name(swept, monkeypatch):
  monkeypatch.setattr(renamed, 'FIELDS', {'data.packed': 'data.rows'})
  _, (line,) = trials.from_file(swept("yield {'data.packed': 4}"), {})
  assert line.endswith(
    'expected --config.data.rows, found its old name data.packed; change it'
  )
