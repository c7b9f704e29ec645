"""The command `report`: one page of any runs, and one line for what cannot be."""

import math
import pathlib
import subprocess
import sys

import pytest

from configs import emoji_scenes
from transfusion_jax.core import sealed_json
from transfusion_jax.runs import config
from transfusion_jax.training import workdir

ROOT = pathlib.Path(__file__).parents[1]

PROGRAM = """
import sys
from absl import flags
from transfusion_jax import report
from transfusion_jax.core import command
for line in sys.stdin.read().splitlines():
  sys.argv = ['report', *line.split()]
  try:
    command.run(report.main)
    print('done', file=sys.stderr)
  except SystemExit as exit:
    print(f'exit {exit.code}', file=sys.stderr)
  flags.FLAGS.unparse_flags()
  for name in list(flags.FLAGS):
    flags.FLAGS[name].unparse()
"""

BAD = {
  'no run at all': ('--output={folder}/a.html', 'found none; name one run'),
  'not a run': ('--workdir={folder} --output={folder}/a.html', 'config.json'),
  'an old run': (
    '--workdir={old} --output={folder}/a.html',
    'expected schema version 2, found none',
  ),
  'no such folder': ('--workdir={mixed} --output={folder}/b/a.html', 'no such folder'),
  'a folder': ('--workdir={mixed} --output={folder}', 'a folder of that name'),
  'one run twice': (
    '--workdir={mixed} --workdir={mixed}/../mixed --output={folder}/a.html',
    'expected different work directories',
  ),
}


@pytest.fixture(scope='module')
def runs(tmp_path_factory) -> pathlib.Path:
  """A mixed run and its autoencoder, as begun; lines that nobody can plot."""
  folder = tmp_path_factory.mktemp('runs')
  mixed = workdir.Workdir(folder / 'mixed')
  nested = workdir.Workdir(mixed.autoencoder)
  nested.root.mkdir(parents=True)
  run = config.parse(emoji_scenes.get_config())
  for place, section in ((mixed, run), (nested, run.autoencoder.run)):
    place.write_config(config.to_dict(section))
  lines = [{'step': k, 'loss': 1 / k, 'psnr': 1.0 * k} for k in range(1, 9)]
  nested.metrics.write_bytes(b''.join(map(sealed_json.line, lines)))
  odd = [{'step': 1, 'loss': math.nan}, {'step': 2, 'loss': -math.inf}]
  mixed.metrics.write_bytes(b''.join(map(sealed_json.line, odd)))
  return folder


def test_what_cannot_be_reported_is_one_line_and_the_rest_is(runs, environment):
  names = {'folder': runs, 'mixed': runs / 'mixed', 'old': runs / 'old'}
  names['old'].mkdir()
  sealed_json.write(names['old'] / 'config.json', {'kind': 'transfusion'})
  good = '--workdir={mixed} --workdir={mixed}/autoencoder --output={folder}/two.html'
  lines = [
    each.format(**names) for each in (*(flags for flags, _ in BAD.values()), good)
  ]
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM],
    input='\n'.join([*lines, '']),
    cwd=ROOT,
    env=environment(),
    capture_output=True,
    text=True,
  )
  *said, last = done.stderr.strip().splitlines()
  assert last == 'done', done.stderr
  assert said[1::2] == ['exit 2'] * len(BAD), done.stderr
  for (name, (_, expected)), line in zip(BAD.items(), said[::2], strict=True):
    assert expected in line, name
  page = (runs / 'two.html').read_text()
  assert page.count('<svg') == 2  # loss and psnr of the autoencoder
  assert not (runs / 'a.html').exists()
