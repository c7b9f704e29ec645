"""The command that compiles for a pod: what it refuses, and one tiny run end to end."""

import importlib.util
import json

import pytest

from tests.support import commands

TINY = [
  '--config=configs/transfusion_160m.py',
  '--config.model.transformer.depth=2',
  '--config.model.vocabulary=1024',
]

pytestmark = pytest.mark.compiler

SMALL = [
  *TINY,
  '--topology=v5e:2x2',
  '--batch=4',
  '--config.data.row_length=512',
  '--config.data.image_slots=2',
  '--config.data.scenes.story=0.0',
  '--config.data.scenes.pair=0.6',
]

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason='needs libtpu, for x86-64 Linux',
)


def check(environment, *arguments):
  variables = environment(optimized=True)
  return commands.run(
    'transfusion_jax.compile_check', *arguments, environment=variables
  )


def refused(done, *words):
  assert done.returncode == 2, done.stderr
  last = done.stderr.strip().splitlines()[-1]
  assert last.startswith('error: ')
  for word in words:
    assert word in last


def test_a_topology_that_does_not_exist(environment):
  done = check(environment, *TINY, '--topology=v5p:8x8x7')
  refused(done, 'found v5p:8x8x7; the nearest is v5p:8x8x8')
  done = check(environment, *TINY, '--topology=v5e:2x2', '--json=nowhere/found.json')
  refused(done, '--json=nowhere/found.json, found no such folder')


@needs_libtpu
def test_a_run_that_cannot_fit_and_rows_that_do_not_divide(environment, tmp_path):
  large = '--config=configs/transfusion_7b.py'
  file = tmp_path / 'found.json'
  done = check(environment, large, '--topology=v5e:2x2', f'--json={file}')
  refused(done, 'for its state alone', 'or try --topology=v5e:2x4')
  found = json.loads(file.read_text())
  assert not found['fits']
  assert 'for its state alone' in found['reason']
  done = check(environment, *TINY, '--topology=v5e:4x4', '--batch=8')
  refused(done, 'rows that divide by 16', 'found 8')


@needs_libtpu
def test_a_small_pod(environment, tmp_path):
  file = tmp_path / 'found.json'
  done = check(environment, *SMALL, f'--json={file}')
  assert done.returncode == 0, done.stderr
  found = json.loads(file.read_text())
  assert found['fits']
  expected = {'slice': 1, 'data': 1, 'fsdp': 4, 'sequence': 1, 'tensor': 1}
  assert found['mesh'] == expected
  state = found['parameter_bytes'] + found['optimizer_bytes'] + found['average_bytes']
  assert state < found['peak_bytes'] < found['hbm_bytes'] == 16 * 2**30
  assert 0 < found['mfu'] < 1
  assert 0 < found['products_seconds'] < found['computing_seconds']
  assert found['mfu'] == found['ideal_seconds'] / found['step_seconds']
  assert {'fsdp'} == {axis for each in found['collectives'] for axis in each['axes']}
  assert f'{found["devices"]} devices' in done.stdout


@needs_libtpu
def test_a_search_ranks_what_fits(environment, tmp_path):
  file = tmp_path / 'found.json'
  done = check(environment, *SMALL, '--search', '--tries=2', f'--json={file}')
  assert done.returncode == 0, done.stderr
  first, second = json.loads(file.read_text())
  assert {first['remat'], second['remat']} == {'full', 'save_attention'}
  assert first['fits']
  assert second['fits']
  assert first['step_seconds'] <= second['step_seconds']
  told = done.stdout.split('fastest first:')[1].strip().splitlines()
  for line, found in zip(told, (first, second), strict=True):
    assert f'remat {found["remat"]}: {1e3 * found["step_seconds"]:.0f} ms' in line


@needs_libtpu
def test_a_search_that_finds_nothing_says_what_to_try(environment):
  large = ['--config=configs/transfusion_7b.py', '--topology=v5e:2x2', '--search']
  refused(check(environment, *large), 'found none', 'try --topology=v5e:2x4')
