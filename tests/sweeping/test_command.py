"""`python -m launch.sweep`, as a user runs it, as far as it trains nothing."""

import pathlib
import shlex
import subprocess
import sys

import pytest

from transfusion_jax.core import sealed_json

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def command(tmp_path, environment):
  """Runs it with a config file whose `sweep()` is given, in an empty folder."""

  def run(body: str, *flags: str) -> subprocess.CompletedProcess:
    file = tmp_path / 'swept.py'
    source = 'from configs.emoji_scenes import get_config\ndef sweep():\n  '
    file.write_text(source + body)
    arguments = [f'--config={file}', f'--workdir={tmp_path / "sweep"}', *flags]
    return subprocess.run(
      [sys.executable, '-m', 'launch.sweep', *arguments],
      cwd=ROOT,
      env=environment(devices=4),
      capture_output=True,
      text=True,
      timeout=120,
    )

  return run


def test_all_bad_overrides_are_told_before_anything_begins(tmp_path, command):
  body = "yield {}\n  yield {'seeds': 1}\n  yield {'data.rows': -1}\n"
  done = command(body, '--config.train.steps=5')
  assert done.returncode == 2
  lines = done.stderr.splitlines()
  assert [line.split(':')[0] for line in lines] == [
    "trial 001 {'seeds'",
    "trial 002 {'data.rows'",
  ]
  assert not (tmp_path / 'sweep').exists()


def test_devices_that_do_not_suit_are_told_before_anything_begins(tmp_path, command):
  done = command("return [{'data.rows': rows} for rows in (4, 8, 6)]")
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert line.startswith("trial 002 {'data.rows': 6}: expected data.rows that divide")
  assert not (tmp_path / 'sweep' / 'trials').exists()


def test_trials_of_another_schema_are_refused(tmp_path, command):
  trial = tmp_path / 'sweep' / 'trials' / '001'
  trial.mkdir(parents=True)
  sealed_json.write(trial / 'config.json', {'kind': 'transfusion'})
  done = command("return [{'seed': 0}, {'seed': 1}]", '--dry-run')
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert f'{trial}/config.json: expected schema version 2, found none' in line


def test_a_folder_that_is_no_path_is_refused(tmp_path, command):
  done = command('return [{}]', '--workdir=gs://bucket/sweep', '--dry-run')
  assert done.returncode == 2
  assert 'expected a path on this machine for --workdir' in done.stderr
  assert not (ROOT / 'gs:').exists()


def test_a_launcher_gets_a_line_for_every_trial(tmp_path, command):
  flags = ('--launcher=submit --name={name} --wrap={quoted}', '--trials=1-2')
  done = command('return [{"seed": k} for k in range(4)]', *flags)
  assert done.returncode == 0, done.stderr
  for number, line in zip((1, 2), done.stdout.splitlines(), strict=True):
    submit, name, wrap = shlex.split(line)
    assert (submit, name) == ('submit', f'--name=00{number}')
    words = shlex.split(wrap.removeprefix('--wrap='))
    assert words[:3] == ['python', '-m', 'transfusion_jax.train']
    assert words[-2] == f'--config.seed={number}'
    assert words[-1] == f'--workdir={tmp_path / "sweep" / "trials"}/00{number}'
  assert not (tmp_path / 'sweep').exists()
