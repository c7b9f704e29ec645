"""Evaluators at work on a run, and what its work directory keeps of it.

`evaluation.jsonl` has a line for every step and evaluator: its scores, and the settings
they were found with. Galleries lie in `evaluation/<step>/<evaluator>`, and TensorBoard
shows `tensorboard/evaluation`.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from transfusion_jax.core import command, log
from transfusion_jax.evaluation import evaluator, galleries, plots, report
from transfusion_jax.generation import writer as writer_lib
from transfusion_jax.runs import config, restore
from transfusion_jax.training import metrics, tensorboard, workdir


def due(
  run: config.TransfusionRun,
  place: workdir.Workdir,
  names: Iterable[str],
  *,
  step: int,
  field: restore.Field,
) -> list[str]:
  """The evaluators that have not yet been at work on a step with these settings.

  Those that failed there are due again.
  """
  done = [
    (record['name'], record['config'])
    for record in metrics.read(place.evaluation)
    if record['step'] == step
    and record['parameters'] == field
    and not record.get('error')
  ]
  return [name for name in names if (name, settings(run, name)) not in done]


def settings(run: config.TransfusionRun, name: str) -> dict[str, Any]:
  """Settings that the scores of an evaluator depend on, apart from the model."""
  section = run.evaluation.evaluators[name]
  return {
    'evaluator': config.to_dict(section),
    'sampling': config.to_dict(run.sampling),
  }


def evaluate(
  run: config.TransfusionRun,
  place: workdir.Workdir,
  writer: writer_lib.Writer,
  evaluators: Mapping[str, evaluator.Evaluator],
  *,
  step: int,
  field: restore.Field,
) -> dict[str, Exception]:
  """Measures a model, and keeps every evaluator's results as soon as they are there.

  One that fails is told of, and the others' turn comes.

  Args:
    run: that trained the model; its sections say how it is measured.
    place: its work directory.
    writer: the model.
    evaluators: by their names in the run.
    step: of the model.
    field: which parameters it holds.

  Returns:
    What ended those evaluators that failed, by name.
  """
  board = tensorboard.Board(place.board('evaluation'), step=None)
  failed: dict[str, Exception] = {}
  for outcome in evaluator.run(evaluators, writer):
    error = outcome.error
    try:
      _keep(run, place, board, outcome, step, field)
    except OSError as lost:
      error = error or lost
    if error is not None:
      failed[outcome.name] = error
      log.warning(f'step {step}, {outcome.name} failed: {_said(error)}')
      log.logger.debug('evaluator %s', outcome.name, exc_info=error)
  return failed


def _keep(
  run: config.TransfusionRun,
  place: workdir.Workdir,
  board: tensorboard.Board,
  outcome: evaluator.Outcome,
  step: int,
  field: restore.Field,
) -> None:
  """Keeps what an evaluator has found; OSError where storage fails."""
  name = shown_as(outcome.name, field, restore.own_field(run))
  galleries.save(place.galleries(step, name), outcome.galleries)
  values = {key: _finite(value) for key, value in outcome.values.items()}
  record = {
    'step': step,
    'parameters': field,
    'name': outcome.name,
    'values': values,
    'seconds': outcome.seconds,
    'config': settings(run, outcome.name),
  }
  if outcome.error is not None:
    record['error'] = _said(outcome.error)
  metrics.append(place.evaluation, record)
  board.write(step, evaluator.prefixed(name, values))
  images, texts = _shown(name, outcome.galleries)
  if images or texts:
    board.show(step, images, texts)
  if outcome.error is None:
    told = {k: x for k, x in outcome.values.items() if not plots.LEVEL.match(k)}
    said = ', '.join(f'{key} {value:.4g}' for key, value in told.items())
    log.info(f'step {step}, {name}: {said or "done"} ({outcome.seconds:.0f} s)')


_SHOWN = 16
"""Images of a gallery in TensorBoard."""


def _shown(
  name: str, found: Mapping[str, report.Gallery]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Images of some galleries as TensorBoard shows them, and lists of their texts."""
  images, texts = {}, {}
  for key, gallery in found.items():
    lines = []
    for number, tile in enumerate(gallery.tiles[:_SHOWN], 1):
      images[f'{name}/{key}/{number:02}'] = tile.picture
      truth = f' (in the data: {tile.truth})' if tile.truth else ''
      lines.append(f'{number}. ' + ' '.join(f'{tile.text}{truth}'.split()))
    if lines:
      texts[f'{name}/{key}'] = '\n'.join(lines)
  return images, texts


def _said(error: Exception) -> str:
  return f'{type(error).__name__}: {command.line(error)}'


def failure(failed: Mapping[str, Exception]) -> tuple[int, str]:
  """The exit code of a command whose evaluators failed, and its last line."""
  mended = all(isinstance(each, ValueError) for each in failed.values())
  said = '; '.join(f'{name}: {_said(error)}' for name, error in failed.items())
  return (
    2 if mended else 1,
    f'error: expected scores of all evaluators, found that some failed: {said}; the '
    'same command tries them again',
  )


def shown_as(name: str, field: restore.Field, own: restore.Field) -> str:
  """An evaluator's name; other parameters than a run's own are named with it."""
  return name if field == own else f'{name}.{field}'


def _finite(value: float) -> float | None:
  """The value, or None if it is NaN or infinite, which JSON cannot hold."""
  return value if math.isfinite(value) else None
