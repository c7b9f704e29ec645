"""One page of several runs: `python -m transfusion_jax.report --workdir=A --workdir=B`.

Curves of all runs lie in one plot, scores stand in one table, pictures side by side.
The page is made of what the work directories keep, and is one file: `--output` says
where, `report.html` if it does not.
"""

import collections
import dataclasses
import pathlib

from absl import flags

from transfusion_jax.core import command
from transfusion_jax.evaluation import report
from transfusion_jax.runs import run_report
from transfusion_jax.training import workdir

_WORKDIRS = flags.DEFINE_multi_string('workdir', [], 'Work directories of runs.')
_OUTPUT = flags.DEFINE_string('output', 'report.html', 'File for the page.')


def main() -> None:
  """Reads all runs, and writes the page."""
  with command.user_errors():
    if not _WORKDIRS.value:
      raise ValueError('expected --workdir=DIR, found none; name one run or several')
    output = command.output_file('output', _OUTPUT.value)
    places = [workdir.at(each) for each in _WORKDIRS.value]
    runs = [run_report.gathered(place) for place in places]
    report.write_page(output, told_apart(runs, _WORKDIRS.value))
  print(f'report: {output}')


def told_apart(runs: list[report.Run], paths: list[str]) -> list[report.Run]:
  """Runs of one name go by their paths; ValueError if one run is named twice."""
  if len({pathlib.Path(path).resolve() for path in paths}) < len(paths):
    raise ValueError(
      f'expected different work directories, found {", ".join(paths)}; name each once'
    )
  count = collections.Counter(run.name for run in runs)
  return [
    dataclasses.replace(run, name=path) if count[run.name] > 1 else run
    for run, path in zip(runs, paths, strict=True)
  ]


if __name__ == '__main__':
  command.run(main)
