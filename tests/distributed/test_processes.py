"""What two processes tell each other, on a mesh that mixes their devices."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]

PROGRAM = """
import json, os, pathlib, signal, sys
import jax, numpy as np
import jax.numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from transfusion_jax.core import axes
from transfusion_jax.training import feed, mesh, preemption, processes

mesh.join(False)
index = jax.process_index()
mixed = np.array(jax.devices()).reshape(2, 2).T


class Source:
  def __init__(self, rows):
    self.rows, self.given = np.array(rows), 0

  def __next__(self):
    self.given += 1
    return {'tokens': self.rows[:, None] + 100 * self.given}

  def get_state(self):
    shards = {str(row): 7 * int(row) for row in self.rows}
    return {'given': self.given, 'shards': shards}


def batches(*sizes):
  placed = Mesh(mixed.reshape(sizes), axes.MESH_AXES)
  return feed.Feed(
    Source, placed, rows=8, state=None, prepare=lambda rows, _: rows['tokens'],
    count=lambda rows: jnp.int32(len(rows['tokens'])), shares=lambda state: {},
    empty=lambda rows: False, unit='rows',
  )


found = {'processes': jax.process_count()}
for name, sizes in {'rows': (1, 1, 4, 1, 1), 'whole': (1, 1, 2, 1, 2)}.items():
  each = batches(*sizes)
  next(each)
  batch = multihost_utils.process_allgather(next(each), tiled=True)
  found[name + ' given'] = [each.given().digests, len(each.given().sizes)]
  found[name] = batch[:, 0].tolist()
  found[name + ' here'] = each._here
  found[name + ' state'] = each.get_state()
steps = 0
with preemption.Stop() as stop:
  while steps < 50 and not stop.agreed():
    steps += 1
    if index == 1 and steps == 10:
      os.kill(os.getpid(), signal.SIGTERM)
  settled = stop.settled()
found |= {'steps': steps, 'settled': settled, 'code': stop.exit_code}
processes.meet('the end')
pathlib.Path(sys.argv[1], str(index)).write_text(json.dumps(found))
"""


def launch(program: str, *arguments: str) -> subprocess.CompletedProcess:
  start = [sys.executable, '-m', 'launch.local', '--processes=2', '--devices=2', '--']
  return subprocess.run(
    [*start, sys.executable, '-c', program, *arguments],
    cwd=ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip


def test_two_processes_agree(tmp_path):
  done = launch(PROGRAM, str(tmp_path))
  assert done.returncode == 0, done.stderr
  one, other = (json.loads((tmp_path / name).read_text()) for name in '01')
  assert one.pop('rows here') == [0, 1, 4, 5]
  assert other.pop('rows here') == [2, 3, 6, 7]
  assert one == other
  digests = [one.pop(f'{name} given') for name in ('rows', 'whole')]
  assert digests[0] == digests[1]  # the mesh makes no difference
  state = {'given': 2, 'shards': {str(row): 7 * row for row in range(8)}}
  assert one == {
    'processes': 2,
    # The rows of two devices of one process need not lie together.
    'rows': [200 + row for row in range(8)],
    'rows state': state,
    # Along the tensor axis two processes hold the same rows, and both make them.
    'whole': [200 + row for row in range(8)],
    'whole here': list(range(8)),
    'whole state': state,
    # One was asked, and both stop behind the same step, the one that follows.
    'steps': 11,
    'settled': True,
    'code': 42,
  }


FAILING = """
import time
import jax
from transfusion_jax.training import mesh, preemption, processes

mesh.join(False)
processes.meet('the beginning')
if jax.process_index() == 1:
  with preemption.Stop():
    raise RuntimeError('of one alone')
time.sleep(300)
"""


def test_one_that_fails_does_not_wait_for_the_others():
  done = launch(FAILING)
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1] == (
    'process 1 of 2 ended first, with exit code 1: RuntimeError: of one alone'
  )
