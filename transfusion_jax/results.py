"""Evaluators at work on a run, and what its work directory keeps of it.

`evaluation.jsonl` has a line for every step and evaluator: its scores, and the settings
they were found with. Galleries lie in `evaluation/<step>/<evaluator>`, and TensorBoard
shows `tensorboard/evaluation`.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from transfusion_jax import config, trained
from transfusion_jax.core import log
from transfusion_jax.data import emoji_glyphs, pipeline
from transfusion_jax.evaluation import (
  evaluator,
  galleries,
  report,
  scene_scores,
  scene_tasks,
)
from transfusion_jax.generation import writer as writer_lib
from transfusion_jax.training import metrics, tensorboard, workdir


def due(
  run: config.TransfusionRun,
  place: workdir.Workdir,
  names: Iterable[str],
  *,
  step: int,
  field: trained.Field,
) -> list[str]:
  """The evaluators that have not yet been at work on a step with these settings."""
  done = [
    (record['name'], record['config'])
    for record in metrics.read(place.evaluation)
    if record['step'] == step and record['parameters'] == field
  ]
  return [name for name in names if (name, settings(run, name)) not in done]


def settings(run: config.TransfusionRun, name: str) -> dict[str, Any]:
  """What the scores of an evaluator depend on, apart from the model."""
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
  field: trained.Field,
) -> None:
  """Measures a model, and keeps every evaluator's results as soon as they are there.

  Args:
    run: that trained the model; its sections say how it is measured.
    place: its work directory.
    writer: the model.
    evaluators: by their names in the run.
    step: of the model.
    field: which parameters it holds.
  """
  board = tensorboard.Board(place.board('evaluation'), step=None)
  own = trained.own_field(run)
  for outcome in evaluator.run(evaluators, writer):
    name = _shown_as(outcome.name, field, own)
    galleries.save(place.galleries(step, name), outcome.galleries)
    values = {key: _finite(value) for key, value in outcome.values.items()}
    metrics.append(
      place.evaluation,
      {'step': step, 'parameters': field, 'name': outcome.name, 'values': values,
       'seconds': outcome.seconds, 'config': settings(run, outcome.name)},
    )  # fmt: skip
    board.write(step, evaluator.prefixed(name, values))
    said = ', '.join(f'{key} {value:.4g}' for key, value in outcome.values.items())
    log.info(f'step {step}, {name}: {said} ({outcome.seconds:.0f} s)')


def seconds_at(place: workdir.Workdir, step: int) -> float:
  """What the evaluations of a step have taken."""
  taken = {
    record['name']: record['seconds']
    for record in metrics.read(place.evaluation)
    if record['step'] == step
  }
  return sum(taken.values())


def write_report(place: workdir.Workdir) -> pathlib.Path:
  """Writes `report.json` and `report.html` from what the work directory keeps."""
  return report.write(place.root, reported(place))


def reported(place: workdir.Workdir) -> report.Run:
  """All that a report says of a run, from what its work directory keeps.

  Raises:
    ValueError: there is no run.
  """
  run = config.from_dict(trained.read_config(place))
  if isinstance(run, config.AutoencoderRun):
    curves = {'autoencoder': metrics.read(place.metrics)}
    return report.Run(place.root.name, '', {}, curves, (), (), {}, '')
  nested = workdir.Workdir(trained.autoencoder_of(run, place))
  kept = _read_json(place.facts)
  about = {
    'autoencoder_psnr': _read_json(nested.latents).get('psnr'),
    'wall_seconds': kept.get('seconds'),
  }
  scores, shown = _scores(run, place)
  if scores:
    scores[-1][1].update({name: value for name, value in about.items() if value})
  scenes = pipeline.scene_forms(run.data)
  return report.Run(
    name=place.root.resolve().name,
    command=kept.get('command', ''),
    facts=kept.get('facts', {}),
    curves={
      'transfusion': metrics.read(place.metrics),
      'autoencoder': metrics.read(nested.metrics),
    },
    scores=scores,
    goals=_goals(place),
    galleries=shown,
    attribution=emoji_glyphs.ATTRIBUTION if scenes else '',
  )


def _scores(
  run: config.TransfusionRun, place: workdir.Workdir
) -> tuple[list[tuple[int, dict[str, float | None]]], dict[str, report.Gallery]]:
  """Scores by step, and each evaluator's newest galleries."""
  by_step: dict[int, dict[str, float | None]] = {}
  newest: dict[str, int] = {}
  own = trained.own_field(run)
  for record in sorted(metrics.read(place.evaluation), key=lambda each: each['step']):
    name = _shown_as(record['name'], record['parameters'], own)
    values = evaluator.prefixed(name, record['values'])
    by_step.setdefault(record['step'], {}).update(values)
    newest[name] = record['step']
  shown = {
    f'{name}/{key}': gallery
    for name, step in newest.items()
    for key, gallery in galleries.load(place.galleries(step, name)).items()
  }
  return sorted(by_step.items()), shown


_GOALS = {'scenes': scene_scores.GOALS, 'scene_tasks': scene_tasks.GOALS}
"""By kind of evaluator."""


def _goals(place: workdir.Workdir) -> tuple[report.Goal, ...]:
  """What is asked of scenes, and of the run where they were evaluated."""
  kinds = {
    record['name']: record['config']['evaluator']['kind']
    for record in metrics.read(place.evaluation)
  }
  goals = [
    dataclasses.replace(goal, name=f'{name}/{goal.name}')
    for name, kind in kinds.items()
    for goal in _GOALS.get(kind, ())
  ]
  return (*scene_scores.RUN_GOALS, *goals) if goals else ()


def _shown_as(name: str, field: trained.Field, own: trained.Field) -> str:
  """An evaluator's name; other parameters than a run's own are named with it."""
  return name if field == own else f'{name}.{field}'


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  return json.loads(path.read_text()) if path.exists() else {}


def _finite(value: float) -> float | None:
  """As JSON can hold it."""
  return value if math.isfinite(value) else None
