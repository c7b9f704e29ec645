"""Evaluates checkpoints of a run: `python -m transfusion_jax.evaluate --workdir=DIR`.

The run's own evaluators are at work, on averaged parameters where it has them, on
whatever devices there are. What was found before is not found again, unless `--again`.

  --step=5000            that step; also `latest` (the default), `all`, or `watch`,
                         which waits for new steps until the run's last
  --params=params        parameters as they were at the step, not their average
  --only=scenes,prose    these evaluators alone
  --evaluation=FILE      a config file whose `evaluation` and `sampling` stand in for
                         the run's: any run can be measured by any evaluators
  --config.evaluation.evaluators.scenes.prompts=512
                         any field of `evaluation`, `sampling` and `mesh`

Scores are added to `DIR/evaluation.jsonl`, pictures go to `DIR/evaluation`, curves for
TensorBoard to `DIR/tensorboard`; `DIR/report.html` shows all of it.
"""

import difflib
import time
from collections.abc import Iterable, Iterator

from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

from transfusion_jax.core import command, log, tree
from transfusion_jax.evaluation import evaluator
from transfusion_jax.runs import build, config, evaluate, restore, run_report
from transfusion_jax.training import checkpoint_reader, mesh, workdir

_WORKDIR = flags.DEFINE_string('workdir', None, 'Work directory of a run.')
_STEP = flags.DEFINE_string('step', 'latest', 'Number of a step, latest, all or watch.')
_PARAMS = flags.DEFINE_enum(
  'params', None, ['ema', 'params'], 'Averaged parameters, or those of the step.'
)
_ONLY = flags.DEFINE_list('only', [], 'Names of evaluators.')
_AGAIN = flags.DEFINE_boolean('again', False, 'Also what was evaluated before.')
_EVALUATION = config_flags.DEFINE_config_file(
  'evaluation', None, 'Config file to take the evaluators from.'
)

WAIT = 5.0
"""Seconds between two looks for new steps."""

OPEN = ('evaluation.', 'sampling.', 'mesh.')
"""Settings that may differ from those of training."""


def main() -> None:
  """Checks everything a user can get wrong, then evaluates."""
  with command.user_errors():
    place = workdir.at(_WORKDIR.value)
    run = _run(place)
    field = _PARAMS.value or restore.own_field(run)
    restore.check_field(run, field)
    sections = chosen(run.evaluation.evaluators, _ONLY.value)
    evaluators = build.evaluators(run, sections)
    if not evaluators:
      raise ValueError(
        f'expected an evaluator that suits the run, found that {", ".join(sections)} '
        'measure on held-out data, and nothing that they can use is held out; name '
        'another one, or take them from a config file with --evaluation=FILE'
      )
    devices = mesh.make(run.mesh)
    steps = _steps(place, _STEP.value)
  failed: dict[str, Exception] = {}
  for step in steps:
    names = list(evaluators)
    if not _AGAIN.value:
      names = evaluate.due(run, place, names, step=step, field=field)
    if names:
      some = {name: evaluators[name] for name in names}
      failed |= _evaluate(run, place, devices, some, step, field)
    else:
      log.info(f'step {step}: nothing to do; --again evaluates it again')
  print(f'report: {run_report.write(place)}')
  if failed:
    raise command.Exit(*evaluate.failure(failed))


def page() -> ConfigDict:
  """The run's config, which flags may change; its mesh is that of the devices here."""
  if not _WORKDIR.value:
    raise ValueError('expected --workdir=DIR, found none; name a trained run')
  place = workdir.at(_WORKDIR.value)
  found = config.page(restore.read_config(place))
  if found.kind == 'transfusion':
    found.mesh.update(data=1, fsdp=-1, sequence=1, tensor=1)
    if _EVALUATION.value is not None:
      if 'evaluation' not in _EVALUATION.value or 'sampling' not in _EVALUATION.value:
        raise ValueError(
          'expected a config of a mixed run in --evaluation, found one without '
          '`evaluation` and `sampling`; name another file'
        )
      found.evaluation = _EVALUATION.value.evaluation
      found.sampling = _EVALUATION.value.sampling
  return found


def chosen(
  sections: dict[str, config.Evaluator], only: Iterable[str]
) -> dict[str, config.Evaluator]:
  """Some of the evaluators by name, or all; ValueError if there are none."""
  if not sections:
    raise ValueError(
      'expected evaluators in evaluation.evaluators, found none; take them from a '
      'config file with --evaluation=FILE'
    )
  for name in only:
    if name not in sections:
      near = difflib.get_close_matches(name, sections, n=1, cutoff=0.0)[0]
      raise ValueError(
        f'expected evaluators among {", ".join(sections)}, found {name!r} in --only; '
        f'did you mean {near!r}?'
      )
  return {name: sections[name] for name in only or sections}


def _run(place: workdir.Workdir) -> config.TransfusionRun:
  run = restore.transfusion(config.parse(flags.FLAGS.config), place)
  before = restore.read_config(place)
  for line in tree.differences(before, config.to_dict(run)):
    if not line.startswith(OPEN):
      raise ValueError(
        f'expected changes in {", ".join(each[:-1] for each in OPEN)} alone, found one '
        f'in what was trained: {line}; take it back'
      )
  return restore.for_this_device(run)


def _evaluate(
  run: config.TransfusionRun,
  place: workdir.Workdir,
  devices: Mesh,
  evaluators: dict[str, evaluator.Evaluator],
  step: int,
  field: restore.Field,
) -> dict[str, Exception]:
  """One step, unless training has removed it meanwhile; which evaluators failed."""
  try:
    writer = restore.writer(run, place, devices, step=step, field=field)
  except (ValueError, OSError) as error:
    if step in checkpoint_reader.steps(place.checkpoints):
      raise
    log.info(f'step {step} was removed before it could be read ({error})')
    return {}
  return evaluate.evaluate(run, place, writer, evaluators, step=step, field=field)


def _steps(place: workdir.Workdir, asked: str) -> Iterable[int]:
  """The steps that are asked for.

  Raises:
    ValueError: there is none, or not that one.
  """
  if asked == 'watch':
    return _new_steps(place)
  if not asked.isdecimal() and asked not in ('latest', 'all'):
    raise ValueError(
      f'expected --step to be a number, latest, all or watch, found {asked!r}'
    )
  there = checkpoint_reader.steps(place.checkpoints)
  if not there:
    raise checkpoint_reader.missing(place.checkpoints)
  if asked.isdecimal():
    checkpoint_reader.check_step(place.checkpoints, int(asked), there)
    return [int(asked)]
  return there if asked == 'all' else there[-1:]


def _new_steps(place: workdir.Workdir) -> Iterator[int]:
  """Steps as they come, until the last that the run is to reach."""
  seen: set[int] = set()
  while True:
    there = [
      step for step in checkpoint_reader.steps(place.checkpoints) if step not in seen
    ]
    yield from there
    seen.update(there)
    last = restore.read_config(place)['train']['steps']
    if seen and max(seen) >= last:
      return
    if not there:
      log.once(f'waiting for new steps, until step {last}')
      time.sleep(WAIT)


if __name__ == '__main__':
  command.run(main, config=page)
