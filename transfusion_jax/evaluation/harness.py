"""Tasks of lm-eval (Gao et al., 2024): questions with known answers, for text models.

HellaSwag, PIQA, SIQA, WinoGrande, ARC and BoolQ, the common-sense tasks of the paper,
are `hellaswag`, `piqa`, `social_iqa`, `winogrande`, `arc_easy`, `arc_challenge` and
`boolq`; whatever else the package knows works as well. It downloads their data from
the Hugging Face hub, once; with HF_HUB_OFFLINE=1 it only takes what is there. Tasks of
one's own are YAML files of its format in a folder, their data beside them.
"""

import dataclasses
import difflib
import pathlib
from collections.abc import Iterator
from typing import Any, Literal

from transfusion_jax.core import paths
from transfusion_jax.evaluation import extras
from transfusion_jax.generation import writer as writer_lib


@dataclasses.dataclass(frozen=True)
class HarnessConfig:
  """Choice of lm-eval's tasks.

  Attributes:
    kind: tells this evaluator from the others.
    tasks: their names in lm-eval.
    folder: of task files of one's own; empty: none.
    shots: solved examples before every question; -1: as each task has it.
    limit: questions of every task; 0: all of them.
  """

  kind: Literal['harness']
  tasks: tuple[str, ...]
  folder: str
  shots: int
  limit: int

  def __post_init__(self):
    folder = paths.anywhere(self.folder, 'harness.folder')
    object.__setattr__(self, 'folder', folder)
    if not self.tasks or self.shots < -1 or self.limit < 0:
      raise ValueError(
        'expected tasks, shots >= -1 and limit >= 0, found '
        f'{self.tasks}, {self.shots} and {self.limit}; -1 shots are those of each '
        'task, and 0 is no limit'
      )


class Harness:
  """The evaluator."""

  def __init__(self, config: HarnessConfig, *, rows: int):
    """Opens the tasks with their data.

    Args:
      config: which tasks.
      rows: requests at a time.

    Raises:
      ValueError: the package, a folder, a task or its data is not there.
    """
    extras.need('lm_eval', 'tasks of lm-eval')
    self._config, self._rows = config, rows
    self._manager = _open(config)

  def check(self) -> None:
    """Nothing is left to try: the tasks were loaded when they were opened."""

  def __call__(self, writer: writer_lib.Writer) -> Iterator[tuple[str, float]]:
    """Every measure of every task, `hellaswag_acc_norm`, and its standard error."""
    import lm_eval

    from transfusion_jax.evaluation import harness_model

    config = self._config
    found = lm_eval.simple_evaluate(
      harness_model.WriterModel(writer, rows=self._rows),
      tasks=list(config.tasks),
      task_manager=self._manager,
      num_fewshot=None if config.shots < 0 else config.shots,
      limit=config.limit or None,
      bootstrap_iters=1000,
      log_samples=False,
    )
    for task, values in found['results'].items():
      yield from _measures(task, values)


def _open(config: HarnessConfig) -> Any:
  """Task manager of lm-eval, whose tasks have been loaded once, so that their data is
  there.
  """
  import lm_eval.tasks

  folder = None
  if config.folder:
    folder = str(paths.local(config.folder, 'folder'))
    if not pathlib.Path(folder).is_dir():
      raise ValueError(
        f'expected a folder of task files, found no {config.folder!r}; check the path'
      )
  # All tasks of the package take seconds to be listed: one's own may be enough.
  manager = lm_eval.tasks.TaskManager(include_path=folder, include_defaults=False)
  if not set(config.tasks) <= set(manager.all_tasks):
    manager = lm_eval.tasks.TaskManager(include_path=folder)
  for name in config.tasks:
    if name not in manager.all_tasks:
      nearest = difflib.get_close_matches(name, manager.all_tasks, n=3)
      raise ValueError(
        f'expected a task of lm-eval or of the folder {config.folder!r}, found '
        f'{name!r}; did you mean {" or ".join(nearest) or "another one"}?'
      )
  try:
    manager.load(list(config.tasks))
  # Whatever its files and the hub make of it.
  except (OSError, ValueError, KeyError) as error:
    reason = ' '.join(str(error).split())
    raise ValueError(
      f'expected the data of {", ".join(config.tasks)}, found an error: {reason}; '
      'download it where there is a network, or use tasks of your own'
    ) from error
  return manager


def _measures(task: str, values: dict[str, Any]) -> Iterator[tuple[str, float]]:
  """Numbers of a task; lm-eval's names are `acc,none` and `acc_stderr,none`."""
  for key, value in values.items():
    measure, _, way = key.partition(',')
    if way and isinstance(value, int | float):
      yield '_'.join([task, measure, *([] if way == 'none' else [way])]), float(value)
