"""Score that decides if a checkpoint is kept: of training or of an evaluator."""

import pathlib
from collections.abc import Mapping
from typing import Any

from transfusion_jax.core import log
from transfusion_jax.training import metrics


def of(
  evaluation: pathlib.Path, logged: Mapping[str, Any], *, step: int, name: str
) -> float | None:
  """Score of a step, higher is better; None if it was not measured at this step.

  Args:
    evaluation: path of `evaluation.jsonl`.
    logged: last record of `metrics.jsonl`.
    step: step that is about to be saved.
    name: see `checkpoint.CheckpointConfig.score`; if empty, the score is None.
  """
  if not name:
    return None
  found = dict(logged) if logged.get('step') == step else {}
  for record in metrics.read(evaluation):
    if record['step'] == step:
      found |= {f'{record["name"]}.{key}': x for key, x in record['values'].items()}
  value = found.get(name.removeprefix('-'))
  if not isinstance(value, int | float):
    known = ', '.join(
      sorted(key for key, x in found.items() if isinstance(x, int | float))
    )
    log.once(
      f'train.checkpoints.score={name} is not measured at every step that is saved, '
      f'which then does not stay for it; known: {known or "nothing"}'
    )
    return None
  return -value if name.startswith('-') else value
