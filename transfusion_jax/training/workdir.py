"""The work directory of a run: what lies where, and whose it is."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from transfusion_jax.core import log, paths, sealed_json, tree
from transfusion_jax.training import processes, storage

SCHEMA = 2
"""Version of work directories, in `config.json`; one more whenever a field of a config,
a file in a work directory or a field in one of its files gets another name."""

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
  def lock(self) -> pathlib.Path:
    """Who trains here; see `training/lock.py`."""
    return self.root / 'lock'

  @property
  def saved(self) -> pathlib.Path:
    """The newest step that was ever saved: without it, no step at all means a start."""
    return self.root / 'saved.json'

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

  def read_config(self) -> dict[str, Any]:
    """Reads the config of the run, as plain values.

    Raises:
      ValueError: it is damaged, or written by a release with another schema.
    """
    values = sealed_json.read(self.config)
    found = values.pop('version', 'none')
    if found != SCHEMA:
      raise ValueError(
        f'{self.config}: expected schema version {SCHEMA}, found {found}; start a new '
        'work directory, or use the release that wrote it'
      )
    return values

  def write_config(self, config: dict[str, Any]) -> None:
    """Writes the config of the run, with the version of the schema."""
    sealed_json.write(self.config, {'version': SCHEMA, **config})

  def check_version(self) -> None:
    """Raises ValueError as `read_config`, where there is a config."""
    if self.config.exists():
      self.read_config()

  def check(
    self,
    config: dict[str, Any],
    contents: dict[str, str],
    allowed: Sequence[str] = (),
  ) -> None:
    """Checks that the folder is new, or this run's; writes nothing.

    Args:
      config: of the run.
      contents: a fingerprint of what fields of the config name: a source, a tokenizer.
      allowed: fields or sections that may differ from what the run was begun with.

    Raises:
      ValueError: the folder belongs to a run with another config, with other data or of
        another version, or to something else, or its files are damaged, or its
        checkpoints have gone.
    """
    if self.root.exists() and not self.root.is_dir():
      raise ValueError(
        f'expected a folder at {self.root}, found a file; name another --workdir'
      )
    if self.config.exists():
      self._refuse(self._changes(config, contents), allowed)
    else:
      strangers = [p for p in (self.metrics, self.checkpoints) if p.exists()]
      if strangers:
        raise ValueError(
          f'expected {self.root} to be new or to hold config.json, found '
          f'{strangers[0].name} without it; name another --workdir'
        )
    self._check_saved()

  def claim(
    self,
    config: dict[str, Any],
    contents: dict[str, str],
    allowed: Sequence[str] = (),
  ) -> None:
    """Makes the folder this run's, if `check` finds nothing.

    All processes of the run call this; one of them writes.

    Raises:
      ValueError: as `check`.
    """
    self.check(config, contents, allowed)
    for line in self._changes(config, contents):
      log.info(f'going on with another setting than before: {line}')
    if processes.leads():
      self.root.mkdir(parents=True, exist_ok=True)
      self.write_config(config)
      sealed_json.write(self.contents, {'contents': contents})
    processes.meet(f'claim {self.root.name}')
    self.check(config, contents, allowed)

  def note_saved(self, step: int) -> None:
    """Notes that a step is on disk; see `saved`."""
    sealed_json.write(self.saved, {'step': step})

  def metadata(self) -> dict[str, str]:
    """The files that say what run this is, by name."""
    return {path.name: path.read_text() for path in (self.config, self.contents)}

  def restore(self, metadata: dict[str, str]) -> None:
    """Puts `metadata` back where they are gone, as after the folder was deleted."""
    gone = [name for name in metadata if not (self.root / name).exists()]
    if not gone or not processes.leads():
      return
    try:
      self.root.mkdir(parents=True, exist_ok=True)
      for name in gone:
        sealed_json.replace(self.root / name, metadata[name])
    except OSError as error:
      log.warning(f'{self.root} cannot be written to: {error}')
    else:
      log.warning(f'{self.root} had lost {", ".join(gone)}, perhaps all; put back')

  def _changes(self, config: dict[str, Any], contents: dict[str, str]) -> list[str]:
    """What differs from before, a line each; of a new folder, nothing."""
    if not self.config.exists():
      return []
    lines = tree.differences(self.read_config(), config)
    if self.contents.exists():
      noted = sealed_json.read(self.contents)['contents']
      lines += [
        f'{line.split(": ")[0]}: expected what stood there when the run was begun, '
        'found that it has changed (files came, went or differ)'
        for line in tree.differences(noted, contents)
      ]
    return lines

  def _check_saved(self) -> None:
    """Raises ValueError if steps were saved here and none is left, or can be seen."""
    try:
      there = any(self.checkpoints.iterdir()) if self.checkpoints.exists() else False
    except OSError as error:  # NotADirectoryError is one
      raise ValueError(
        f'expected a folder at {self.checkpoints} that can be read, found '
        f'{error.strerror}; mend that, or name another --workdir'
      ) from error
    signs = [p for p in (self.saved, self.facts, self.latents) if p.exists()]
    if signs and not (there and storage.numbers(self.checkpoints)):
      raise ValueError(
        f'expected the steps that were saved under {self.checkpoints} '
        f'({signs[0].name} tells of them), found none; bring a copy back, or begin '
        'anew in another --workdir'
      )

  def _refuse(self, lines: list[str], allowed: Sequence[str]) -> None:
    """Raises ValueError if some of the changes may not be."""
    fixed = [line for line in lines if not _may_differ(line.split(': ')[0], allowed)]
    if fixed:
      more = f' (and {len(fixed) - 3} more)' if len(fixed) > 3 else ''
      raise ValueError(
        f'expected what {self.root} was begun with; {"; ".join(fixed[:3])}{more}; '
        'name another --workdir, take back the change, or allow it with '
        f'--allow={fixed[0].split(": ")[0]}'
      )


def at(path: str, flag: str = '--workdir') -> Workdir:
  """The work directory that a flag or a field of a config names.

  Raises:
    ValueError: it lies in a bucket, or no folder can be called so.
  """
  return Workdir(paths.local(path, flag))


def _may_differ(field: str, allowed: Sequence[str]) -> bool:
  named = any(field == each or field.startswith(f'{each}.') for each in allowed)
  return named or (field.startswith(FREE) and field not in FIXED)
