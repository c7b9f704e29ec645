"""What a trial need not compute, because another one has: it begins with a copy.

Trials that differ in nothing but how they are measured (`sampling`, `evaluation`) are
trained once, and measured each at the last step; trials with the same autoencoder train
it once. Every trial keeps a work directory and a command of its own, which would do all
of it where there is nothing to copy.
"""

import json
import pathlib
import shutil
from collections.abc import Collection, Sequence

from transfusion_jax.runs import build, config
from transfusion_jax.sweeping import trials as trials_lib
from transfusion_jax.training import workdir

MEASURED = ('sampling', 'evaluation')
"""Sections that have no part in training."""

_SCORES = shutil.ignore_patterns('evaluation*', 'report.*', 'facts.json')
"""What does not go with a copy: found as another trial is measured."""


class Sharing:
  """Who has computed what."""

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
      trial: its number.
      running: trials that are at work.
      done: trials that are through.

    Returns:
      Whether it may begin; no, while another one is at what it could copy.
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
  """The same for runs of the same training."""
  values = config.to_dict(run)
  return json.dumps({name: values[name] for name in values if name not in MEASURED})


def _encoded(run: config.Run) -> str:
  """The same for runs that train the same autoencoder; empty if it trains none."""
  if isinstance(run, config.AutoencoderRun) or not build.trains_autoencoder(run):
    return ''
  return json.dumps(config.to_dict(run.autoencoder.run))


def _begin_with(source: pathlib.Path, place: workdir.Workdir, inside: str) -> None:
  """Makes a work directory that holds a copy, or is one; it is there whole or not."""
  part = place.root.with_name(place.root.name + '.part')
  shutil.rmtree(part, ignore_errors=True)
  shutil.copytree(source, part / inside, ignore=_SCORES)
  part.replace(place.root)
