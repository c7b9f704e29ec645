"""Final losses and scores of a trial, read from its work directory."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfusion_jax.core import sealed_json
from transfusion_jax.evaluation import evaluator
from transfusion_jax.runs import config, evaluate, restore
from transfusion_jax.training import metrics, workdir

LAST = 0.1
"""Share of the last steps over which losses are averaged: one batch says little."""


def final(run: config.Run, place: workdir.Workdir) -> dict[str, float]:
  """Losses at the end of training and scores of the last step, by name.

  Scores are those of the run's own evaluators with their current settings.
  """
  found = losses(metrics.read(place.metrics))
  if isinstance(run, config.AutoencoderRun):
    kept = sealed_json.read(place.latents) if place.latents.exists() else {}
    return found | {name: kept[name] for name in ('psnr',) if name in kept}
  for record in metrics.read(place.evaluation):
    if record['step'] == run.train.steps and _own(run, record):
      found |= evaluator.prefixed(record['name'], _measured(record['values']))
  return found


def losses(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Mean losses over the last `LAST` of the steps; a loss of 0 means no such data."""
  if not records:
    return {}
  since = (1 - LAST) * records[-1]['step']
  late = [record for record in records if record['step'] > since]
  found = {}
  for name in sorted({key for each in late for key in each if key.startswith('loss')}):
    values = [r[name] for r in late if r.get(name) and math.isfinite(r[name])]
    if values:
      found[name] = float(np.mean(values))
  return found


def _own(run: config.TransfusionRun, record: Mapping[str, Any]) -> bool:
  name = record['name']
  return (
    record['parameters'] == restore.own_field(run)
    and name in run.evaluation.evaluators
    and record['config'] == evaluate.settings(run, name)
  )


def _measured(values: Mapping[str, float | None]) -> dict[str, float]:
  return {name: value for name, value in values.items() if value is not None}
