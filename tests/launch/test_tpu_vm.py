"""Training on TPU VMs, beside a gcloud of a few lines: what is run, and how often."""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import pytest

from launch import queued_resource, tpu_vm

FLAGS = (
  '--name=run1',
  '--project=p',
  '--zone=us-west4-a',
  '--topology=v5e:4x4',
)
COMMAND = (
  '--',
  'python',
  '-m',
  'transfusion_jax.train',
  '--distributed',
  '--workdir=/runs/run1',
)

FAKE = r"""#!/bin/bash
# What it was asked goes to `log`. `created` holds the state behind each creation, and
# `ended` an exit code of the run and the state of the machines by then, line by line.
cd "$(dirname "$0")"
echo "$(printf '%q ' gcloud "$@")" >>log
pop() { head -n 1 "$1" 2>/dev/null; sed -i 1d "$1" 2>/dev/null; }
case "$*" in
  *describe*)
    cat state 2>/dev/null && exit
    cat trouble >&2 2>/dev/null || echo 'ERROR: NOT_FOUND: no such resource' >&2
    exit 1 ;;
  *create*) state=$(pop created); echo "${state:-ACTIVE}" >state ;;
  *delete*) rm state ;;
  *'kill -INT'*) touch stopped ;;
  *run.log*)
    while [ -e wait ] && [ ! -e stopped ]; do sleep 0.05; done
    read -r code state <<<"$(pop ended)"
    if [ -n "$state" ]; then echo "$state" >state; fi
    exit "${code:-0}" ;;
  *'ssh'*) exit "$(cat broken 2>/dev/null || echo 0)" ;;
esac
"""


class Cloud:
  """A folder with a gcloud in it, on PATH."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    for name, text in (('gcloud', FAKE), ('tar', '#!/bin/bash\n')):
      (folder / name).write_text(text)
      (folder / name).chmod(0o755)

  def write(self, **files: str) -> None:
    for name, text in files.items():
      (self.folder / name).write_text(text)

  def asked(self) -> list[str]:
    """Every command, as it could be typed."""
    log = self.folder / 'log'
    lines = log.read_text().splitlines() if log.exists() else []
    return [shlex.join(shlex.split(line)) for line in lines]

  def verbs(self) -> list[str]:
    """What was done, in a word each, less the questions about the state."""
    found = []
    for line in self.asked():
      if 'run.log' in line:
        found.append('run')
      elif '--command=if' in line:
        found.append('stop' if 'kill -INT' in line else 'install')
      else:
        found += [w for w in ('create', 'delete', 'scp') if f' {w} ' in line]
    return found


@pytest.fixture
def cloud(tmp_path, monkeypatch) -> Cloud:
  monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
  for name, seconds in (('TICK', 0.01), ('POLL', 0.02), ('SETTLE', 0.05)):
    monkeypatch.setattr(tpu_vm, name, seconds)
  return Cloud(tmp_path)


def launch(*flags: str) -> int:
  return tpu_vm.main([*FLAGS, *flags, *COMMAND])


ONCE = ['scp', 'install', 'run']


def test_success_gives_the_machines_back(cloud):
  assert launch() == 0
  assert cloud.verbs() == ['create', *ONCE, 'delete']


def test_the_archive_lies_where_nobody_else_can_put_a_link(cloud, monkeypatch):
  shared = cloud.folder / 'shared'
  shared.mkdir()
  mine = cloud.folder / 'mine'
  mine.write_text('precious')
  (shared / 'run1.tgz').symlink_to(mine)
  monkeypatch.setattr(tempfile, 'tempdir', str(shared))
  tar = '#!/bin/bash\nfor word; do case $word in --file=*) file=${word#--file=};; esac;'
  tar += f' done; ls -ld "$(dirname $file)" >>{cloud.folder}/seen; echo code >"$file"\n'
  cloud.write(tar=tar)
  assert launch() == 0
  assert (cloud.folder / 'seen').read_text().startswith('drwx------')
  assert mine.read_text() == 'precious'
  assert [path.name for path in shared.iterdir()] == ['run1.tgz']  # the link alone


def test_what_is_kept_is_used_again(cloud):
  assert launch('--keep') == 0
  assert launch('--keep') == 0
  assert cloud.verbs() == ['create', *ONCE, *ONCE]


def test_waits_for_machines(cloud):
  cloud.write(state='WAITING_FOR_RESOURCES\n')
  later = threading.Timer(0.3, lambda: cloud.write(state='ACTIVE\n'))
  later.start()
  assert launch() == 0
  assert cloud.verbs() == [*ONCE, 'delete']


@pytest.mark.parametrize(
  'ended', ['42 ACTIVE', '134 SUSPENDING', '255 SUSPENDED', '1 SUSPENDED']
)
def test_goes_on_after_a_preemption(cloud, ended, capfd):
  cloud.write(ended=f'{ended}\n0 ACTIVE\n')
  assert launch() == 0
  assert cloud.verbs() == ['create', *ONCE, 'delete', 'create', *ONCE, 'delete']
  assert 'attempt 1 of 100: stopped from outside; again' in capfd.readouterr().err


def test_machines_that_are_taken_from_a_run_that_hangs(cloud):
  script = (cloud.folder / 'gcloud').read_text()
  hang = (
    '*run.log*)\n    if mkdir hung; then echo SUSPENDED >state; exec sleep 30; fi\n'
  )
  cloud.write(gcloud=script.replace('*run.log*)\n', hang))
  assert launch() == 0
  assert cloud.verbs() == ['create', *ONCE, 'delete', 'create', *ONCE, 'delete']


def test_a_lost_connection_is_made_again_on_the_same_machines(cloud):
  cloud.write(ended='255 ACTIVE\n0 ACTIVE\n')
  assert launch() == 0
  assert cloud.verbs() == ['create', *ONCE, *ONCE, 'delete']


@pytest.mark.parametrize('code', [1, 2, 130, 134])
def test_other_failures_end_it(cloud, code):
  cloud.write(ended=f'{code} ACTIVE\n')
  assert launch() == code
  assert cloud.verbs() == ['create', *ONCE, 'delete']


def test_an_installation_that_fails_is_not_the_users_configuration(cloud):
  cloud.write(broken='2')
  assert launch() == 1
  assert cloud.verbs() == ['create', 'scp', 'install', 'delete']


def test_a_request_that_fails_at_first_is_not_repeated(cloud, capfd):
  cloud.write(created='FAILED\n')
  assert launch() == 2
  assert cloud.verbs() == ['create', 'delete']
  assert 'expected machines, found that the request' in capfd.readouterr().err


def test_a_request_that_fails_later_is_repeated(cloud):
  cloud.write(ended='42 ACTIVE\n', created='ACTIVE\nFAILED\nACTIVE\n')
  assert launch() == 0
  again = ['create', 'delete', 'create', *ONCE, 'delete']
  assert cloud.verbs() == ['create', *ONCE, 'delete', *again]


def test_attempts_are_counted(cloud):
  cloud.write(ended='42 ACTIVE\n' * 3)
  assert launch('--attempts=2') == 42
  assert cloud.verbs().count('run') == 2


def test_without_an_answer_of_gcloud_nothing_is_asked_for(cloud, capsys):
  cloud.write(trouble='ERROR: You do not have an active account\n')
  with pytest.raises(SystemExit, match='2'):
    launch()
  (line,) = capsys.readouterr().err.splitlines()
  assert 'You do not have an active account' in line
  assert cloud.verbs() == []


def test_ctrl_c_saves_first(cloud):
  cloud.write(wait='', ended='130 ACTIVE\n')

  def interrupt() -> None:
    deadline = time.monotonic() + 20
    while 'run' not in cloud.verbs() and time.monotonic() < deadline:
      time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGINT)

  thread = threading.Thread(target=interrupt)
  thread.start()
  assert launch() == 130
  thread.join()
  assert cloud.verbs() == ['create', *ONCE, 'stop', 'delete']


@pytest.mark.parametrize('slices', [1, 2])
def test_a_dry_run_prints_what_runs(cloud, slices, capsys):
  flags = (f'--slices={slices}', '--spot', '--create-flag=--network=tpus')
  assert launch('--dry-run', *flags) == 0
  make, pack, *printed, remove = capsys.readouterr().out.splitlines()
  folder = make.removeprefix('mkdir --mode=700 ')
  assert pack.startswith(f'tar --create --gzip --file={folder}/run1.tgz ')
  assert remove == f'rm --recursive {folder}'
  printed = [line.replace(folder, 'FOLDER') for line in printed]
  assert not (cloud.folder / 'log').exists()
  assert launch(*flags) == 0
  copies = re.compile(r'(?<= scp )\S+(?=/run1.tgz)')
  done = [
    copies.sub('FOLDER', line) for line in cloud.asked() if ' describe ' not in line
  ]
  assert printed[0].split()[4] == 'describe'
  # Slices are spoken to at once, in any order.
  assert sorted(done) == sorted(printed[1:])
  assert [done[0], done[-1]] == [printed[1], printed[-1]]
  assert printed[1].split()[4:6] == ['create', 'run1']
  assert {'--spot', '--network=tpus', '--accelerator-type=v5litepod-16'} <= (
    set(printed[1].split())
  )
  assert ('--node-count=2' in printed[1]) == (slices == 2)


@pytest.mark.skipif(shutil.which('gcloud') is None, reason='gcloud is not installed')
def test_gcloud_knows_the_flags(tmp_path, capsys):
  """By gcloud's own parser, which asks nobody."""
  flags = ('--slices=2', '--spot', '--create-flag=--network=tpus')
  assert launch('--dry-run', *flags) == 0
  printed = capsys.readouterr().out.splitlines()[2:-1]
  asked = [*printed, f'{printed[0]} --zona=a']
  (tmp_path / 'commands').write_text(
    json.dumps([{'command_string': each} for each in asked])
  )
  done = subprocess.run(
    ['gcloud', 'meta', 'lint-gcloud-commands', f'--commands-file={tmp_path}/commands'],
    env={
      **os.environ,
      'CLOUDSDK_CONFIG': str(tmp_path),
      'CLOUDSDK_CORE_DISABLE_USAGE_REPORTING': '1',
    },
    capture_output=True,
    text=True,
  )
  if done.returncode:
    pytest.skip('this gcloud does not check commands')
  *ours, wrong = json.loads(done.stdout)
  assert len(ours) == len(printed)
  assert [each['error_message'] for each in ours] == [None] * len(ours)
  assert not wrong['success']


class Host:
  """A shell with a home of its own, as ssh would find it."""

  def __init__(self, home: pathlib.Path):
    (home / 'transfusion').mkdir()
    self._variables = {**os.environ, 'HOME': str(home)}

  def begin(self, line: str) -> subprocess.Popen:
    return subprocess.Popen(
      ['bash', '-c', line],
      env=self._variables,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def run(self, line: str) -> tuple[int, str]:
    process = self.begin(line)
    said, _ = process.communicate(timeout=30)
    return process.returncode, said


@pytest.mark.parametrize('code', [0, 42])
def test_the_exit_code_comes_back(tmp_path, code):
  line = queued_resource.start(['bash', '-c', f"echo it\\'s; pwd; exit {code}"])
  assert Host(tmp_path).run(line) == (code, f"it's\n{tmp_path}/transfusion\n")


def test_a_run_outlives_its_connection_and_is_stopped_like_by_ctrl_c(tmp_path):
  host = Host(tmp_path)
  program = "trap 'exit 130' INT; echo begun; while true; do sleep 0.1; done"
  line = queued_resource.start(['bash', '-c', program])
  lost = host.begin(line)
  assert lost.stdout.readline() == 'begun\n'
  lost.kill()
  lost.wait()
  lost.stdout.close()
  assert host.run(queued_resource.install('a.tgz', 'echo setup')) == (0, '')
  again = host.begin(line)
  assert [again.stdout.readline() for _ in range(2)] == ['still at work\n', 'begun\n']
  assert host.run(queued_resource.stop()) == (0, '')
  again.communicate(timeout=30)
  assert again.returncode == 130
  assert host.run(queued_resource.stop()) == (0, '')
  # Nothing is at work any more: set up, then stopped by what is missing here.
  assert host.run(queued_resource.install('a.tgz', 'echo setup; false')) == (
    1,
    'setup\n',
  )


def test_the_code_is_packed_without_what_stays_at_home(tmp_path):
  archive = str(tmp_path / 'run1.tgz')
  subprocess.run(queued_resource.pack(archive), check=True)
  listing = subprocess.run(
    ['tar', '-tzf', archive], capture_output=True, text=True, check=True
  )
  packed = {name.removeprefix('./') for name in listing.stdout.splitlines()}
  root = queued_resource.ROOT
  for folder in ('transfusion_jax', 'configs', 'launch'):
    files = {path.relative_to(root).as_posix() for path in (root / folder).rglob('*.*')}
    kept = {name for name in files if '__pycache__' not in name}
    assert len(kept) > 3
    assert kept <= packed
  assert {'setup.py', 'README.md'} <= packed
  assert not [name for name in packed if '__pycache__' in name or '.git/' in name]
