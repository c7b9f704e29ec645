r"""Runs the sweep of a config file, and writes a table and a page of its trials.

  python -m launch.sweep --config=configs/emoji_ablations.py --workdir=runs/ablations

The file's `sweep()` yields overrides; `transfusion_jax/sweeping/overrides.py` has
grids, random draws and combinations. Every trial is a run of `train` with its own work
directory, `DIR/trials/000`, and its output in `DIR/trials/000.log`. All trials are
checked before the first one starts. Fields given here, for example
`--config.train.steps=100`, apply to every trial.

`DIR/ledger.jsonl` records the status of each trial. The same command continues an
interrupted sweep: finished trials are kept, others continue from their checkpoints.
Trials with the same autoencoder train it once, and trials that differ only in
`sampling` and `evaluation` are trained once.

  --metric=-loss_image    metric for ranking trials in `DIR/sweep.csv` and
                          `DIR/sweep.html`; a minus means that lower is better
  --processes=4           trials at a time
  --trials=0,3-5          run only these trials
  --retries=2             maximum number of restarts of a failed trial
  --on-failure=stop       end the sweep when a trial has failed for good
  --dry-run               print the commands of trials that are not finished
  --launcher='sbatch --job-name={name} --wrap={quoted}'
                          print such a line for each of them, to run elsewhere;
                          {command} is the command as words, {quoted} as one word
  --results-only          write only the table and the page, from existing results
"""

import concurrent.futures
import multiprocessing
import pathlib
import shlex
from collections.abc import Sequence

import jax
from absl import flags
from ml_collections import config_flags

from launch import trial_processes
from transfusion_jax.core import command, log, paths
from transfusion_jax.evaluation import pages
from transfusion_jax.runs import config, preflight
from transfusion_jax.sweeping import ledger as ledger_lib
from transfusion_jax.sweeping import page, scores, sharing, table
from transfusion_jax.sweeping import trials as trials_lib
from transfusion_jax.training import workdir

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file with sweep().', lock_config=True
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder for all that the sweep writes.')
_METRIC = flags.DEFINE_string('metric', '-loss', 'Score that trials are ranked by.')
_PROCESSES = flags.DEFINE_integer(
  'processes', 1, 'Trials at a time.', lower_bound=1, upper_bound=1024
)
_TRIALS = flags.DEFINE_list('trials', [], 'Numbers of trials; all if there are none.')
_RETRIES = flags.DEFINE_integer(
  'retries', 1, 'After failures.', lower_bound=0, upper_bound=2**16
)
_ON_FAILURE = flags.DEFINE_enum(
  name='on-failure',
  default='skip',
  enum_values=['skip', 'stop'],
  help='What becomes of the others.',
)
_DRY_RUN = flags.DEFINE_boolean('dry-run', False, 'Print what would run.')
_LAUNCHER = flags.DEFINE_string('launcher', None, 'Print this line for every trial.')
_RESULTS_ONLY = flags.DEFINE_boolean('results-only', False, 'Run nothing.')


def main() -> None:
  """Checks all trials, runs them or prints their commands, and writes the results."""
  with command.user_errors():
    trials, root = _trials(), paths.local(_WORKDIR.value, '--workdir')
    chosen = _chosen(_TRIALS.value, len(trials))
    places = [workdir.Workdir(root / 'trials' / each.name) for each in trials]
    for each in places:
      each.check_version()
  if _DRY_RUN.value or _LAUNCHER.value:
    with command.user_errors():
      done = ledger_lib.done(_records(root))
      _print(trials, places, [number for number in chosen if number not in done])
    return
  if _RESULTS_ONLY.value:
    _tell(trials, places, root)
    return
  code = _run(trials, places, chosen=chosen, root=root)
  try:
    _tell(trials, places, root)
  except command.Exit as error:
    if not code:
      raise
    log.info(error.message)
  if code:
    said = {1: 'trials have failed, see above'}
    again = 'stopped; the same command goes on from here'
    raise command.Exit(code, said.get(code, again))


def _trials() -> list[trials_lib.Trial]:
  """Reads all trials; ends the command with the errors of all of them, if any."""
  if _CONFIG.value is None or not _WORKDIR.value:
    raise ValueError(
      'expected --config=FILE and --workdir=DIR, found only one or none; for example '
      '--config=configs/emoji_ablations.py --workdir=runs/ablations'
    )
  flag = flags.FLAGS['config']
  file = config_flags.get_config_filename(flag)
  trials, problems = trials_lib.from_file(file, config_flags.get_override_values(flag))
  if problems:
    raise command.Exit(2, '\n'.join(problems))
  return trials


def _chosen(asked: Sequence[str], count: int) -> list[int]:
  """Numbers of the trials in `--trials`; ValueError if there are none such."""
  chosen: set[int] = set()
  for each in asked:
    first, _, last = each.partition('-')
    if not (first.isdecimal() and (last or first).isdecimal()):
      raise ValueError(f'expected --trials=0,3-5 or so, found {each!r}; correct it')
    chosen.update(range(int(first), int(last or first) + 1))
  if chosen and max(chosen) >= count:
    raise ValueError(
      f'expected --trials up to {count - 1}, found {max(chosen)}; there are no more'
    )
  return sorted(chosen) or list(range(count))


def _print(
  trials: Sequence[trials_lib.Trial],
  places: Sequence[workdir.Workdir],
  left: Sequence[int],
) -> None:
  """Prints a line for every trial that is left; ValueError if the template is wrong."""
  template = _LAUNCHER.value or '{command}'
  for number in left:
    words = shlex.join(trials[number].command(places[number].root))
    values = {'command': words, 'quoted': shlex.quote(words)}
    try:
      print(template.format(name=trials[number].name, **values))
    except (KeyError, IndexError, ValueError) as error:
      raise ValueError(
        f'expected {{name}}, {{command}} or {{quoted}} alone in --launcher, found '
        f'{template!r}; double other braces'
      ) from error


def _run(
  trials: Sequence[trials_lib.Trial],
  places: Sequence[workdir.Workdir],
  *,
  chosen: Sequence[int],
  root: pathlib.Path,
) -> int:
  """Runs the unfinished trials; returns the exit code."""
  with command.user_errors():
    root.mkdir(parents=True, exist_ok=True)
    ledger = ledger_lib.Ledger(root)
  with ledger:
    with command.user_errors():
      ledger.begin(trials)
      _check_devices([trials[number] for number in chosen])
    sweep = trial_processes.Sweep(
      [_job(trials[number], places[number]) for number in chosen],
      ledger,
      trial_processes.Policy(
        _PROCESSES.value, _RETRIES.value, stops=_ON_FAILURE.value == 'stop'
      ),
      prepare=sharing.Sharing(trials, places).prepare,
      scores=lambda number: scores.final(trials[number].run, places[number]),
      ended=lambda: _write_early(trials, places, ledger=ledger, root=root),
    )
    return sweep.run()


def _job(trial: trials_lib.Trial, place: workdir.Workdir) -> trial_processes.Job:
  return trial_processes.Job(
    number=trial.number,
    overrides=trial.overrides,
    command=trial.command(place.root),
    output=place.root.with_name(f'{trial.name}.log'),
  )


def _check_devices(trials: Sequence[trials_lib.Trial]) -> None:
  """Ends the command if a trial does not fit the devices of this machine.

  A separate process checks them, so that they are free again for the trials.
  """
  spawn = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
    found = pool.submit(_unsuited, [each.run for each in trials]).result()
  lines = [
    f'trial {trial.name} {trial.overrides}: {problem}'
    for trial, problem in zip(trials, found, strict=True)
    if problem
  ]
  if lines:
    raise command.Exit(2, '\n'.join(lines))


def _unsuited(runs: Sequence[config.Run]) -> list[str]:
  """Error of each run with the devices of this machine; empty if there is none."""
  found = []
  for run in runs:
    try:
      preflight.check_devices(run, jax.devices())
      found.append('')
    except ValueError as error:
      found.append(command.line(error))
  return found


def _tell(trials, places, root: pathlib.Path) -> None:
  """Writes the results, and prints the best trial and its command."""
  with command.user_errors():
    best, metric = _write(trials, places, records=_records(root), root=root)
  if metric.name in best.scores:
    score = pages.number(best.scores[metric.name])
    print(f'best: trial {best.trial:03d}, {metric.name} {score}')
    print(shlex.join(best.command))
  print(f'results: {root / "sweep.html"}')


def _records(root: pathlib.Path) -> list[ledger_lib.Record]:
  return ledger_lib.read(root / 'ledger.jsonl')


def _write_early(
  trials, places, *, ledger: ledger_lib.Ledger, root: pathlib.Path
) -> None:
  """Writes the results during the sweep; errors are only logged."""
  try:
    _write(trials, places, records=ledger.records, root=root)
  except (ValueError, OSError) as error:  # at the end of the sweep it is raised
    log.once(command.line(error))


def _write(
  trials: Sequence[trials_lib.Trial],
  places: Sequence[workdir.Workdir],
  *,
  records: Sequence[ledger_lib.Record],
  root: pathlib.Path,
) -> tuple[table.Row, table.Metric]:
  """Writes the table and the page; ValueError if there is no score named `--metric`.

  Returns:
    The best row, and the metric.
  """
  metric = table.Metric.named(_METRIC.value)
  found = sorted(table.rows(trials, places, records), key=metric.rank)
  table.write_csv(root / 'sweep.csv', found)
  table.check(found, metric)
  reports = {n: place.root / 'report.html' for n, place in enumerate(places)}
  there = {number: path for number, path in reports.items() if path.exists()}
  page.write(root / 'sweep.html', found, metric=metric, reports=there)
  return found[0], metric


if __name__ == '__main__':
  command.run(main)
