"""The work directory of a run: what lies where, and whose it is."""

import dataclasses
import json
import pathlib
from typing import Any

from transfusion_jax.core import log, tree
from transfusion_jax.training import processes

FREE = ('train.', 'sampling.', 'evaluation.', 'mesh.')
"""Sections that may differ when a run goes on; the rest decides what is learnt."""

FIXED = ('train.microbatches',)


@dataclasses.dataclass(frozen=True)
class Workdir:
  """Names of everything a run writes.

  Attributes:
    root: the folder given as `--workdir`.
  """

  root: pathlib.Path

  @property
  def config(self) -> pathlib.Path:
    return self.root / 'config.json'

  @property
  def metrics(self) -> pathlib.Path:
    return self.root / 'metrics.jsonl'

  @property
  def checkpoints(self) -> pathlib.Path:
    return self.root / 'checkpoints'

  @property
  def autoencoder(self) -> pathlib.Path:
    """Work directory of the autoencoder that the run trains first."""
    return self.root / 'autoencoder'

  @property
  def latents(self) -> pathlib.Path:
    """Of an autoencoder: mean and deviation of its latents, and its PSNR."""
    return self.root / 'latents.json'

  def claim(self, config: dict[str, Any]) -> None:
    """Makes the folder this run's, or checks that it already is.

    All processes of the run call this; one of them writes.

    Raises:
      ValueError: the folder belongs to a run with another config, or to something else.
    """
    if self.config.exists():
      found = json.loads(self.config.read_text())
      self._compare(found, config)
    else:
      strangers = [p for p in (self.metrics, self.checkpoints) if p.exists()]
      if strangers:
        raise ValueError(
          f'expected {self.root} to be new or to hold config.json, found '
          f'{strangers[0].name} without it; name another --workdir'
        )
    if processes.leads():
      self.root.mkdir(parents=True, exist_ok=True)
      write_json(self.config, config)
    processes.meet(f'claim {self.root.name}')

  def _compare(self, found: dict[str, Any], config: dict[str, Any]) -> None:
    lines = tree.differences(found, config)
    free = [
      line for line in lines if line.startswith(FREE) and not line.startswith(FIXED)
    ]
    fixed = [line for line in lines if line not in free]
    if fixed:
      more = f' (and {len(fixed) - 3} more)' if len(fixed) > 3 else ''
      raise ValueError(
        f'expected the config that {self.root} was begun with; {"; ".join(fixed[:3])}'
        f'{more}; name another --workdir, or take back the change'
      )
    for line in free:
      log.info(f'going on with another setting than before: {line}')


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON in one go: a reader sees the old file or the new one, never half."""
  fresh = path.with_name(path.name + '.tmp')
  fresh.write_text(json.dumps(value, indent=2) + '\n')
  fresh.replace(path)
