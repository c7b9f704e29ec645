"""The trials of the shipped sweep, which nobody runs here, and what they leave."""

import pathlib
import warnings

import pytest

from transfusion_jax.core import sealed_json
from transfusion_jax.runs import config, evaluate, restore
from transfusion_jax.sweeping import trials as trials_lib
from transfusion_jax.training import workdir

FILE = str(pathlib.Path(__file__).parents[2] / 'configs' / 'emoji_ablations.py')


@pytest.fixture(scope='session')
def ablations() -> list[trials_lib.Trial]:
  """All nine, with an autoencoder of their own to train."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # ml_collections loads config files its own way
    found, problems = trials_lib.from_file(FILE, {'train.steps': 100})
  assert not problems
  return found


@pytest.fixture
def places(tmp_path, ablations) -> list[workdir.Workdir]:
  """Their work directories, which are not there yet."""
  return [workdir.Workdir(tmp_path / 'trials' / each.name) for each in ablations]


@pytest.fixture
def leave(ablations, places):
  """Leaves what a trial that is through does: `leave(3, loss=..., score=...)`."""

  def leave(number: int, *, loss: float, score: float) -> None:
    run, place = ablations[number].run, places[number]
    for folder in (place.checkpoints / '100', place.galleries(100, 'scenes')):
      folder.mkdir(parents=True)
    (place.checkpoints / '100' / 'state').write_text(f'parameters of {number}')
    (place.root / 'report.html').write_text('a page')
    place.write_config(config.to_dict(run))
    logged = [{'step': step, 'loss': loss + 100 - step} for step in range(1, 101)]
    place.metrics.write_bytes(b''.join(map(sealed_json.line, logged)))
    evaluated = {
      'step': 100,
      'parameters': restore.own_field(run),
      'name': 'scenes',
      'values': {'two_objects': score, 'relation': None},
      'seconds': 1.0,
      'config': evaluate.settings(run, 'scenes'),
    }
    place.evaluation.write_bytes(sealed_json.line(evaluated))
    if number == 0:
      place.autoencoder.mkdir()
      place_of_latents = workdir.Workdir(place.autoencoder).latents
      sealed_json.write(place_of_latents, {'mean': [0.0], 'psnr': 30.0})

  return leave
