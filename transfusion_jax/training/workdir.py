"""The work directory of a run: what lies where, and whose it is."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from transfusion_jax.core import log, tree
from transfusion_jax.training import processes

FREE = (
  *('train.', 'sampling.', 'evaluation.', 'mesh.'),
  *('data.threads', 'data.prefetch', 'data.broken'),
  *(f'autoencoder.run.data.{name}' for name in ('threads', 'prefetch', 'broken')),
)
"""What may differ when a run goes on; the rest decides what is learnt."""

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
  def contents(self) -> pathlib.Path:
    """What the names of files in the config stood for when the run was begun."""
    return self.root / 'contents.json'

  @property
  def metrics(self) -> pathlib.Path:
    return self.root / 'metrics.jsonl'

  @property
  def evaluation(self) -> pathlib.Path:
    """What evaluators have found, one line per step and evaluator."""
    return self.root / 'evaluation.jsonl'

  def galleries(self, step: int, name: str) -> pathlib.Path:
    """Pictures that an evaluator has shown."""
    return self.root / 'evaluation' / str(step) / name

  def board(self, part: str) -> pathlib.Path:
    """Event files for TensorBoard, of training or of evaluation."""
    return self.root / 'tensorboard' / part

  @property
  def facts(self) -> pathlib.Path:
    """Of a finished run: its command, its seconds, what it ran on."""
    return self.root / 'facts.json'

  @property
  def programs(self) -> pathlib.Path:
    """Compiled programs, for the next start."""
    return self.root / 'programs'

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

  def claim(
    self,
    config: dict[str, Any],
    contents: dict[str, str],
    allowed: Sequence[str] = (),
  ) -> None:
    """Makes the folder this run's, or checks that it already is.

    All processes of the run call this; one of them writes.

    Args:
      config: of the run.
      contents: a fingerprint of what fields of the config name: a source, a tokenizer.
      allowed: fields or sections that may differ from what the run was begun with.

    Raises:
      ValueError: the folder belongs to a run with another config or with other data, or
        to something else.
    """
    if self.config.exists():
      self._compare(json.loads(self.config.read_text()), config, allowed)
      if self.contents.exists():
        self._compare(json.loads(self.contents.read_text()), contents, allowed)
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
      write_json(self.contents, contents)
    processes.meet(f'claim {self.root.name}')
    self._compare(json.loads(self.config.read_text()), config, allowed)
    self._compare(json.loads(self.contents.read_text()), contents, allowed)

  def papers(self) -> dict[str, str]:
    """The files that say what run this is, by name."""
    return {path.name: path.read_text() for path in (self.config, self.contents)}

  def mend(self, papers: dict[str, str]) -> None:
    """Puts `papers` back where they are gone, as after the folder was deleted."""
    gone = [name for name in papers if not (self.root / name).exists()]
    if not gone or not processes.leads():
      return
    try:
      self.root.mkdir(parents=True, exist_ok=True)
      for name in gone:
        _write(self.root / name, papers[name])
    except OSError as error:
      log.warning(f'{self.root} cannot be written to: {error}')
    else:
      log.warning(f'{self.root} had lost {", ".join(gone)}, perhaps all; put back')

  def _compare(
    self, found: dict[str, Any], wanted: dict[str, Any], allowed: Sequence[str]
  ) -> None:
    lines = tree.differences(found, wanted)
    fixed = [line for line in lines if not _may_differ(line.split(': ')[0], allowed)]
    if fixed:
      more = f' (and {len(fixed) - 3} more)' if len(fixed) > 3 else ''
      raise ValueError(
        f'expected what {self.root} was begun with; {"; ".join(fixed[:3])}{more}; '
        'name another --workdir, take back the change, or allow it with '
        f'--allow={fixed[0].split(": ")[0]}'
      )
    for line in lines:
      log.info(f'going on with another setting than before: {line}')


def _may_differ(field: str, allowed: Sequence[str]) -> bool:
  named = any(field == each or field.startswith(f'{each}.') for each in allowed)
  return named or (field.startswith(FREE) and field not in FIXED)


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON in one go: a reader sees the old file or the new one, never half."""
  _write(path, json.dumps(value, indent=2) + '\n')


def _write(path: pathlib.Path, text: str) -> None:
  fresh = path.with_name(path.name + '.tmp')
  fresh.write_text(text)
  fresh.replace(path)
