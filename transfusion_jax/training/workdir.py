"""Work directory of a run: names of its files, and checks that it belongs to a run."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from transfusion_jax.core import log, paths, sealed_json, tree
from transfusion_jax.training import processes, storage

SCHEMA = 2
"""Version of work directories, in `config.json`; increased whenever a config field, a
file in a work directory or a field in one of its files is renamed."""

FREE = (
  *('train.', 'sampling.', 'evaluation.', 'mesh.'),
  *('data.threads', 'data.prefetch', 'data.broken'),
  *(f'autoencoder.run.data.{name}' for name in ('threads', 'prefetch', 'broken')),
)
"""Prefixes of fields that may differ when a run is resumed; others affect learning."""

FIXED = ('train.microbatches',)


@dataclasses.dataclass(frozen=True)
class Workdir:
  """Paths of all files and folders that a run writes.

  Attributes:
    root: folder given as `--workdir`.
  """

  root: pathlib.Path

  @property
  def config(self) -> pathlib.Path:
    return self.root / 'config.json'

  @property
  def contents(self) -> pathlib.Path:
    """Fingerprints of the files named in the config, from the start of the run."""
    return self.root / 'contents.json'

  @property
  def lock(self) -> pathlib.Path:
    """Lock of the folder; see `training/lock.py`."""
    return self.root / 'lock'

  @property
  def saved(self) -> pathlib.Path:
    """Newest step ever saved: if it exists, missing checkpoints are an error."""
    return self.root / 'saved.json'

  @property
  def metrics(self) -> pathlib.Path:
    return self.root / 'metrics.jsonl'

  @property
  def evaluation(self) -> pathlib.Path:
    """Results of evaluators, one line per step and evaluator."""
    return self.root / 'evaluation.jsonl'

  def galleries(self, step: int, name: str) -> pathlib.Path:
    """Folder of the images of an evaluator at a step."""
    return self.root / 'evaluation' / str(step) / name

  def board(self, part: str) -> pathlib.Path:
    """Folder of TensorBoard event files, of training or of evaluation."""
    return self.root / 'tensorboard' / part

  @property
  def facts(self) -> pathlib.Path:
    """Facts of a finished run: its command, its seconds, its devices."""
    return self.root / 'facts.json'

  @property
  def programs(self) -> pathlib.Path:
    """Folder of compiled programs for the next start."""
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
    """Statistics of an autoencoder: mean and deviation of its latents, its PSNR."""
    return self.root / 'latents.json'

  def read_config(self) -> dict[str, Any]:
    """Reads the config of the run, as plain values.

    Raises:
      ValueError: the file is damaged, or has another schema version.
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
    """Raises ValueError if there is a config that `read_config` refuses."""
    if self.config.exists():
      self.read_config()

  def check(
    self,
    config: dict[str, Any],
    contents: dict[str, str],
    allowed: Sequence[str] = (),
  ) -> None:
    """Checks that the folder is new or belongs to this run; writes nothing.

    Args:
      config: config of the run.
      contents: fingerprints of files by the fields of the config that name them.
      allowed: fields or sections that may differ from the start of the run.

    Raises:
      ValueError: the folder belongs to a run with another config, with other data or of
        another version, or to something else; or its files are damaged; or its
        checkpoints are missing.
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
    """Checks the folder and writes the config of this run into it.

    All processes of the run call this; the first one writes.

    Raises:
      ValueError: see `check`.
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
    """Records that a step is on disk; see `saved`."""
    sealed_json.write(self.saved, {'step': step})

  def metadata(self) -> dict[str, str]:
    """Texts of the files that identify the run, by name."""
    return {path.name: path.read_text() for path in (self.config, self.contents)}

  def restore(self, metadata: dict[str, str]) -> None:
    """Restores missing files of `metadata`, as after the folder was deleted."""
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
    """Differences to the start of the run, one line each; none for a new folder."""
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
    """Raises ValueError if steps were saved here and none can be found."""
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
    """Raises ValueError if some of the changes are not allowed."""
    fixed = [line for line in lines if not _may_differ(line.split(': ')[0], allowed)]
    if fixed:
      more = f' (and {len(fixed) - 3} more)' if len(fixed) > 3 else ''
      raise ValueError(
        f'expected what {self.root} was begun with; {"; ".join(fixed[:3])}{more}; '
        'name another --workdir, take back the change, or allow it with '
        f'--allow={fixed[0].split(": ")[0]}'
      )


def at(path: str, flag: str = '--workdir') -> Workdir:
  """Work directory given by a flag or a field of a config.

  Raises:
    ValueError: the path is a URL or not a valid name of a folder.
  """
  return Workdir(paths.local(path, flag))


def _may_differ(field: str, allowed: Sequence[str]) -> bool:
  named = any(field == each or field.startswith(f'{each}.') for each in allowed)
  return named or (field.startswith(FREE) and field not in FIXED)
