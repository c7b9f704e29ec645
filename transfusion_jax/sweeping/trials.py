"""Trials from the `sweep()` of a config file, checked as `train` checks its config."""

import dataclasses
import pathlib
import runpy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from transfusion_jax.core import command, renamed
from transfusion_jax.runs import config, preflight
from transfusion_jax.sweeping import overrides

PROGRAM = ('python', '-m', 'transfusion_jax.train')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
  """Trial: one run of a sweep.

  Attributes:
    number: number of the trial, from 0.
    overrides: values of fields by dotted name.
    arguments: arguments of `train` except the work directory.
    run: config that results from the arguments.
  """

  number: int
  overrides: dict[str, Any]
  arguments: tuple[str, ...]
  run: config.Run

  @property
  def name(self) -> str:
    """Name of its work directory."""
    return f'{self.number:03d}'

  def command(self, workdir: pathlib.Path) -> list[str]:
    """Command that runs the trial in a work directory."""
    return [*PROGRAM, *self.arguments, f'--workdir={workdir}']


def from_file(file: str, fixed: Mapping[str, Any]) -> tuple[list[Trial], list[str]]:
  """Reads the trials of a sweep, and an error line for each invalid one.

  Repeated overrides are skipped, since they would give the same run.

  Args:
    file: config file, with its argument after a colon if it takes one.
    fixed: values of fields that were set for all trials on the command line.

  Raises:
    ValueError: the file has no `sweep()`, or its own functions raise one.
    OSError: the file cannot be read.
  """
  trials: list[Trial] = []
  problems: list[str] = []
  seen: list[dict[str, Any]] = []
  for override in _sweep(file):
    number, changed = len(seen), {}
    try:
      changed = overrides.flat(override)
      if changed not in seen:
        seen.append(changed)
        trials.append(_trial(number, file, fixed=fixed, changed=changed))
    except Exception as error:  # noqa: BLE001, as `parse` says
      said = command.line(error)
      said = renamed.said(error, said, [f'--config.{name}' for name in changed]) or said
      problems.append(f'trial {number:03d} {override}: {said}')
  if not seen and not problems:
    raise ValueError(
      f'expected overrides from sweep() in {file}, found none; yield some'
    )
  return trials, problems


def parse(arguments: Sequence[str]) -> config.Run:
  """Config of a run from the arguments of `train`.

  Raises:
    Exception: any error of the flags or of the config file, which is a program.
  """
  values = flags.FlagValues()
  argv = [PROGRAM[-1], *arguments]
  config_flags.DEFINE_config_file(
    'config', None, flag_values=values, lock_config=True, sys_argv=argv
  )
  values(argv)
  return config.parse(values.config)


def _sweep(file: str) -> Iterable[overrides.Override]:
  path = file.split(':', 1)[0]
  names = runpy.run_path(path)
  if 'sweep' not in names:
    raise ValueError(
      f'expected sweep() in {path}, found none; write one that yields dicts of fields '
      'and values, as configs/emoji_ablations.py does'
    )
  return names['sweep']()


def _trial(
  number: int, file: str, *, fixed: Mapping[str, Any], changed: dict[str, Any]
) -> Trial:
  """Creates and checks a trial; raises the errors of `parse` and of `preflight`."""
  twice = sorted(fixed.keys() & changed.keys())
  if twice:
    raise ValueError(
      f'expected --config.{twice[0]} from sweep() alone, found it on the command line '
      'as well; remove it there'
    )
  both = {**fixed, **changed}
  arguments = (f'--config={file}', *(_flag(*each) for each in both.items()))
  run = parse(arguments)
  preflight.check(run)
  preflight.check_files(run)
  return Trial(number=number, overrides=changed, arguments=arguments, run=run)


def _flag(field: str, value: Any) -> str:
  """Argument of `train` for a field; ValueError if the value cannot be written so."""
  items = value if isinstance(value, tuple | list) else [value]
  if any(type(each) not in (bool, int, float, str) for each in items):
    raise ValueError(
      f'expected numbers, strings or tuples of them for {field}, found {value!r}; make '
      'it one'
    )
  written = repr(tuple(value)) if isinstance(value, list) else str(value)
  return f'--config.{field}={written}'
