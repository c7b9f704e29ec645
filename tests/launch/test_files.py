"""The files that are handed to other tools: SkyPilot's task and the container's."""

import fnmatch
import pathlib
import re
import subprocess

import pytest
import yaml

from launch import command_line, pods, queued_resource

ROOT = pathlib.Path(__file__).parents[2]
SKYPILOT = ROOT / 'launch' / 'skypilot.yaml'


def task() -> dict:
  return yaml.safe_load(SKYPILOT.read_text())


def test_skypilot_restarts_what_asks_for_it_alone():
  recovery = task()['resources']['job_recovery']
  assert recovery['recover_on_exit_codes'] == [command_line.RETRY]
  assert recovery['max_restarts_on_errors'] == 0


def test_skypilot_asks_for_a_pod_and_runs_on_all_of_it():
  pod = pods.find('v5e:4x4', 1)
  assert task()['resources']['accelerators'] == f'tpu-{pod.accelerator_type}'
  assert '--distributed' in task()['run']
  (mount,) = task()['file_mounts']
  assert f'--workdir="{mount}/$SKYPILOT_TASK_ID"' in task()['run']


@pytest.mark.parametrize('script', ['setup', 'run'])
def test_skypilot_scripts_are_shell(script):
  subprocess.run(['bash', '-n', '-c', task()[script]], check=True)


def test_skypilot_takes_the_task():
  sky = pytest.importorskip('sky')
  made = sky.Task.from_yaml_config(task(), env_overrides=[('BUCKET', 'bucket')])
  (resources,) = made.resources
  assert resources.accelerators == {'tpu-v5litepod-16': 1}
  assert resources.use_spot
  wrong = task()
  wrong['resourcess'] = wrong.pop('resources')
  with pytest.raises(Exception, match="did you mean 'resources'"):
    sky.Task.from_yaml_config(wrong, env_overrides=[('BUCKET', 'bucket')])


def dockerfile() -> list[str]:
  text = re.sub(r'^#.*\n', '', (ROOT / 'Dockerfile').read_text(), flags=re.MULTILINE)
  return [line for line in text.splitlines() if line]


def test_the_same_packages_everywhere():
  asked = f"'.[{queued_resource.EXTRAS}]'"
  assert sum(asked in line for line in dockerfile()) == 1
  assert asked in task()['setup']


def test_the_container_file_copies_what_is_there():
  stages = [line.split()[1] for line in dockerfile() if line.startswith('FROM')]
  assert stages == ['python:3.12-slim']
  ignored = (ROOT / '.dockerignore').read_text().split()
  for line in dockerfile():
    if line.startswith('COPY'):
      *sources, _ = line.split()[1:]
      for source in sources:
        assert (ROOT / source).exists()
        assert not any(fnmatch.fnmatch(source, pattern) for pattern in ignored)
