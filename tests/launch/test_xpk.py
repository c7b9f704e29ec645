"""What is handed to xpk, and what xpk makes of it where it is installed."""

import json
import shutil

import pytest
import yaml

from launch import xpk
from launch.gke import __main__ as gke

RUN = ('--name=run1', '--topology=v5e:16x16', '--slices=2', '--image=image:1')
FLAGS = (*RUN, '--project=p', '--zone=us-west4-a', '--cluster=c', '--storage=runs')
COMMAND = ('--', 'python', '-m', 'a', '--distributed', '--note=two words')

FAKE = """#!/usr/bin/env python3
import json, pathlib, sys
pathlib.Path(__file__).with_name('asked.json').write_text(json.dumps(sys.argv[1:]))
for word in sys.argv:
  if word.startswith('--output-manifest-file='):
    pathlib.Path(word.split('=', 1)[1]).write_text('kind: JobSet')
sys.exit(7 if 'fail' in sys.argv[3] else 0)
"""

EXPECTED = [
  'workload',
  'create',
  '--workload=run1',
  '--cluster=c',
  '--project=p',
  '--zone=us-west4-a',
  '--tpu-type=v5litepod-16x16',
  '--num-slices=2',
  '--docker-image=image:1',
  '--storage=runs',
  "--command=python -m a --distributed '--note=two words'",
  '--max-restarts=1000',
  '--termination-grace-period-seconds=125',
]


@pytest.fixture
def asked(tmp_path, monkeypatch):
  """An xpk on PATH that keeps what it was asked."""
  (tmp_path / 'xpk').write_text(FAKE)
  (tmp_path / 'xpk').chmod(0o755)
  monkeypatch.setenv('PATH', str(tmp_path), prepend=':')
  return lambda: json.loads((tmp_path / 'asked.json').read_text())


def test_the_command(asked):
  assert xpk.main([*FLAGS, *COMMAND]) == 0
  assert asked() == EXPECTED
  assert xpk.main([*FLAGS, '--spot', '--restarts=0', '--grace=60', *COMMAND]) == 0
  changed = ['--max-restarts=0', '--termination-grace-period-seconds=65', '--spot']
  assert asked() == [*EXPECTED[:-2], *changed]


def test_a_dry_run_prints_the_command_and_the_manifest(asked, capsys):
  assert xpk.main([*FLAGS, '--dry-run', *COMMAND]) == 0
  command, manifest = capsys.readouterr().out.splitlines()
  assert command.startswith('# xpk workload create --workload=run1')
  assert manifest == 'kind: JobSet'
  *same, dry, validation, output = asked()
  assert same == EXPECTED
  assert (dry, validation) == ('--dry-run', '--skip-validation')
  assert output.startswith('--output-manifest-file=')


@pytest.mark.parametrize('dry', [(), ('--dry-run',)])
def test_the_exit_code_is_that_of_xpk(asked, dry):
  assert xpk.main([*FLAGS, '--name=fail', *dry, *COMMAND]) == 7


@pytest.mark.skipif(shutil.which('xpk') is None, reason='xpk is not installed')
def test_the_manifest_of_xpk(capsys):
  """Restarts and time to save are as asked, and hosts, chips and nodes are ours."""
  assert xpk.main([*FLAGS, '--dry-run', *COMMAND]) == 0
  theirs = yaml.safe_load(capsys.readouterr().out)['spec']
  assert gke.main([*RUN, '--claim=runs:/runs', *COMMAND]) == 0
  ours = yaml.safe_load(capsys.readouterr().out)['spec']
  assert theirs['failurePolicy']['maxRestarts'] == 1000
  (slices,), (our_slices,) = theirs['replicatedJobs'], ours['replicatedJobs']
  assert slices['replicas'] == our_slices['replicas'] == 2
  job, our_job = slices['template']['spec'], our_slices['template']['spec']
  for name in ('parallelism', 'completions', 'backoffLimit'):
    assert job[name] == our_job[name]
  (rule,) = job['podFailurePolicy']['rules']
  assert (rule['action'], rule['onExitCodes']['operator']) == ('FailJob', 'NotIn')
  restarts = set(rule['onExitCodes']['values'])
  assert {42, 134, 137} <= restarts
  assert not restarts & {1, 2}
  pod, our_pod = job['template']['spec'], our_job['template']['spec']
  assert pod['terminationGracePeriodSeconds'] == 125
  assert pod['nodeSelector'] == our_pod['nodeSelector']
  (container,), (our_container,) = pod['containers'], our_pod['containers']
  assert container['resources'] == our_container['resources']
  assert "(python -m a --distributed '--note=two words')" in container['command'][-1]
