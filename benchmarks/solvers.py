"""Scores of emoji scenes by solver, number of steps and guidance.

  python -m benchmarks.solvers --workdir=runs/emoji_scenes --json=solvers.json

samples the same prompts with the same noise for every row of two tables, scores the
images exactly (`evaluation/emoji/scorer.py`), and prints them: solvers at several
numbers of steps with the run's own guidance, and guidance scales with one of the
solvers. An evaluation is one pass of the network over an image; conditional and
unconditional passes count as two.
"""

import argparse
import dataclasses
import json
import pathlib
import time

from transfusion_jax.diffusion import solvers
from transfusion_jax.evaluation.emoji import scenes
from transfusion_jax.runs import restore
from transfusion_jax.training import mesh, workdir

STEPS = (
  ('ddpm', 250),
  *((s, n) for s in ('ddim', 'dpm2m', 'heun') for n in (50, 25, 10)),
)
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
SCORES = (
  'background',
  'single_object',
  'two_objects',
  'relation',
  'counting',
  'binding',
)


def main() -> None:
  """Scores everything and prints both tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', required=True, help='of a run on emoji scenes')
  parser.add_argument('--prompts', type=int, default=128, help='of each kind')
  parser.add_argument('--json', help='file for the result')
  arguments = parser.parse_args()
  place = workdir.Workdir(pathlib.Path(arguments.workdir))
  run = restore.run_in(place)
  writer = restore.writer(run, place, mesh.single())
  found = []
  for solver, steps in STEPS:
    found.append(_scored(run, writer, arguments, solver=solver, steps=steps))
  for scale in SCALES:
    chosen = {'solver': 'dpm2m', 'steps': 25, 'guidance': scale}
    found.append(_scored(run, writer, arguments, **chosen))
  if arguments.json:
    pathlib.Path(arguments.json).write_text(json.dumps(found, indent=1) + '\n')


def _scored(run, writer, arguments, **chosen) -> dict[str, object]:
  """Scores the run with some of its sampling settings changed; prints a line."""
  sampling = dataclasses.replace(run.sampling, **chosen)
  section = scenes.ScenesConfig(
    kind='scenes', prompts=arguments.prompts, shown=0, seed=0
  )
  measure = scenes.Scenes(section, run.data.scenes, sampling, rows=run.evaluation.rows)
  began = time.perf_counter()
  values = dict(measure.new_prompts(writer))
  seconds = time.perf_counter() - began
  twice = 2 if sampling.guided else 1
  line = {
    **{name: getattr(sampling, name) for name in ('solver', 'steps', 'guidance')},
    'evaluations': twice * solvers.evaluations(sampling.solver, sampling.steps),
    'seconds': seconds,
    **{name: values[name] for name in SCORES if name in values},
  }
  cells = (f'{v:.3f}' if isinstance(v, float) else str(v) for v in line.values())
  print(f'| {" | ".join(cells)} |', flush=True)
  return line


if __name__ == '__main__':
  main()
