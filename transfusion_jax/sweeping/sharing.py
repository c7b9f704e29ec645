"""Sharing of results between trials: a trial starts with a copy from another one.

Trials that differ only in `sampling` and `evaluation` are trained once and evaluated
each at the last step; trials with the same autoencoder train it once. Every trial has
its own work directory and command, which computes everything if there is nothing to
copy.
"""

import json
import pathlib
import shutil
from collections.abc import Collection, Sequence

from transfusion_jax.runs import build, config
from transfusion_jax.sweeping import trials as trials_lib
from transfusion_jax.training import workdir

MEASURED = ('sampling', 'evaluation')
"""Sections of a config that do not affect training."""

_SCORES = shutil.ignore_patterns('evaluation*', 'report.*', 'facts.json')
"""Files that are not copied: results of the other trial's evaluation."""


class Sharing:
  """Trials by what they compute: training, and training of the autoencoder."""

  def __init__(
    self, trials: Sequence[trials_lib.Trial], places: Sequence[workdir.Workdir]
  ):
    """Args: trials, and their work directories."""
    self._places = {
      each.number: place for each, place in zip(trials, places, strict=True)
    }
    self._trained = {each.number: _trained(each.run) for each in trials}
    self._encoded = {each.number: _encoded(each.run) for each in trials}

  def prepare(
    self, trial: int, running: Collection[int], done: Collection[int]
  ) -> bool:
    """Makes copies for a trial that is about to begin.

    Args:
      trial: number of the trial.
      running: numbers of the running trials.
      done: numbers of the finished trials.

    Returns:
      True if the trial may start; False while another one computes what it can copy.
    """
    place = self._places[trial]
    if place.root.exists():  # begun before
      return True
    alike = self._alike(self._trained, trial)
    for other in alike:
      if other in done and self._places[other].checkpoints.exists():
        _begin_with(self._places[other].root, place, '')
        return True
    if any(other in running for other in alike):
      return False
    alike = self._alike(self._encoded, trial)
    for other in alike:
      source = workdir.Workdir(self._places[other].autoencoder)
      if source.latents.exists():  # the last that its training writes
        _begin_with(source.root, place, place.autoencoder.name)
        return True
    return not any(other in running for other in alike)

  def _alike(self, keys: dict[int, str], trial: int) -> list[int]:
    key = keys[trial]
    return [each for each in keys if key and keys[each] == key and each != trial]


def _trained(run: config.Run) -> str:
  """Key that is equal for runs with the same training."""
  values = config.to_dict(run)
  return json.dumps({name: values[name] for name in values if name not in MEASURED})


def _encoded(run: config.Run) -> str:
  """Key that is equal for runs that train the same autoencoder; empty if none."""
  if isinstance(run, config.AutoencoderRun) or not build.trains_autoencoder(run):
    return ''
  return json.dumps(config.to_dict(run.autoencoder.run))


def _begin_with(source: pathlib.Path, place: workdir.Workdir, inside: str) -> None:
  """Creates a work directory as a copy, or with one inside; atomically."""
  part = place.root.with_name(place.root.name + '.part')
  shutil.rmtree(part, ignore_errors=True)
  shutil.copytree(source, part / inside, ignore=_SCORES)
  part.replace(place.root)
