"""Report of a run, from the records that its work directory keeps."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from transfusion_jax.core import command, log, sealed_json
from transfusion_jax.data import pipeline
from transfusion_jax.data.emoji import glyphs as emoji_glyphs
from transfusion_jax.evaluation import curves, evaluator, galleries, report
from transfusion_jax.evaluation.emoji import scenes, tasks
from transfusion_jax.runs import config, restore
from transfusion_jax.runs import evaluate as evaluate_lib
from transfusion_jax.training import metrics, workdir


def seconds_at(place: workdir.Workdir, step: int) -> float:
  """Seconds that the evaluations of a step have taken."""
  taken = {
    record['name']: record['seconds']
    for record in metrics.read(place.evaluation)
    if record['step'] == step
  }
  return sum(taken.values())


def write(place: workdir.Workdir) -> pathlib.Path:
  """Writes `report.json` and `report.html` from what the work directory keeps."""
  return report.write(place.root, gathered(place))


def gathered(place: workdir.Workdir) -> report.Run:
  """All that a report says of a run, from what its work directory keeps.

  What is damaged of it is left out, and named.

  Raises:
    ValueError: there is no run.
  """
  run = config.from_dict(restore.read_config(place))
  name = place.root.resolve().name
  if isinstance(run, config.AutoencoderRun):
    logged = {'autoencoder': curves.thinned(metrics.records(place.metrics))}
    return report.Run(name, '', {}, logged, (), (), {}, '')
  nested = workdir.Workdir(restore.autoencoder_of(run, place))
  trouble: list[str] = []
  kept = _sound(lambda: sealed_json.read(place.facts), place.facts, trouble)
  latents = _sound(lambda: sealed_json.read(nested.latents), nested.latents, trouble)
  about = {'autoencoder_psnr': latents.get('psnr'), 'wall_seconds': kept.get('seconds')}
  records = sorted(metrics.records(place.evaluation), key=lambda each: each['step'])
  scores, shown = _scores(run, place, records, trouble)
  if scores:
    scores[-1][1].update({name: value for name, value in about.items() if value})
  logged = {'transfusion': place.metrics, 'autoencoder': nested.metrics}
  return report.Run(
    name=name,
    command=kept.get('command', ''),
    facts=kept.get('facts', {}),
    curves={
      stage: curves.thinned(metrics.records(path)) for stage, path in logged.items()
    },
    scores=scores,
    goals=_goals(records),
    galleries=shown,
    attribution=emoji_glyphs.ATTRIBUTION if pipeline.scene_forms(run.data) else '',
    trouble=trouble,
  )


def _scores(
  run: config.TransfusionRun,
  place: workdir.Workdir,
  records: Iterable[Mapping[str, Any]],
  trouble: list[str],
) -> tuple[list[tuple[int, dict[str, float | None]]], dict[str, report.Gallery]]:
  """Scores by step, and each evaluator's newest galleries; what is missing is added."""
  by_step: dict[int, dict[str, float | None]] = {}
  newest: dict[str, Mapping[str, Any]] = {}
  own = restore.own_field(run)
  for record in records:
    name = evaluate_lib.shown_as(record['name'], record['parameters'], own)
    values = evaluator.prefixed(name, record['values'])
    by_step.setdefault(record['step'], {}).update(values)
    newest[name] = record
  shown = {}
  for name, record in newest.items():
    step = record['step']
    if record.get('error'):
      trouble.append(f'Evaluator {name} failed at step {step:,}: {record["error"]}')
    place_of = place.galleries(step, name)
    found = _sound(lambda place_of=place_of: galleries.load(place_of), None, trouble)
    shown |= {f'{name}/{key}': gallery for key, gallery in found.items()}
  return sorted(by_step.items()), shown


def _sound(
  read: Callable[[], dict[str, Any]], path: pathlib.Path | None, trouble: list[str]
) -> dict[str, Any]:
  """Contents of a file, or nothing if it is missing or damaged."""
  if path is not None and not path.exists():
    return {}
  try:
    return read()
  except (ValueError, KeyError, TypeError, OSError) as error:
    log.warning(f'left out of the report: {command.line(error)}')
    trouble.append(f'Left out: {command.line(error)}')
    return {}


_GOALS = {'scenes': scenes.GOALS, 'scene_tasks': tasks.GOALS}
"""By kind of evaluator."""


def _goals(records: Iterable[Mapping[str, Any]]) -> tuple[report.Goal, ...]:
  """Goals of the scenes, and of the run if they were evaluated."""
  kinds = {record['name']: record['config']['evaluator']['kind'] for record in records}
  goals = [
    dataclasses.replace(goal, name=f'{name}/{goal.name}')
    for name, kind in kinds.items()
    for goal in _GOALS.get(kind, ())
  ]
  return (*scenes.RUN_GOALS, *goals) if goals else ()
