"""Output that nobody reads, or that the terminal cannot show, ends no work."""

import subprocess
import sys

import pytest

PROGRAM = """
import logging, sys, time
from transfusion_jax.core import log
log.setup()
sys.stdin.readline()
import tqdm
for number in tqdm.tqdm(range(200), file=sys.stderr, mininterval=0):
  print('line', number)
  log.info('said')
print('\\u00e9 \\u6f22')
sys.stdout.flush()
open(sys.argv[1], 'w').write('done')
"""


@pytest.mark.parametrize('closed', ['stdout', 'stderr'])
def test_a_reader_that_has_gone(tmp_path, environment, closed):
  with subprocess.Popen(
    [sys.executable, '-c', PROGRAM, str(tmp_path / 'end')],
    env=environment(),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  ) as process:
    getattr(process, closed).close()
    process.stdin.write(b'go\n')
    process.stdin.close()
    other = process.stderr if closed == 'stdout' else process.stdout
    said = other.read().decode()
  assert process.returncode == 0
  assert (tmp_path / 'end').read_text() == 'done'
  assert 'Traceback' not in said
  assert 'Exception' not in said


def test_a_terminal_that_cannot_show_a_letter(tmp_path, environment):
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM, str(tmp_path / 'end')],
    env=environment(PYTHONIOENCODING='ascii'),
    input=b'go\n',
    capture_output=True,
    check=True,
  )
  assert done.stdout.decode('ascii').splitlines()[-1] == '\\xe9 \\u6f22'


def test_a_full_disk_costs_what_is_said_and_not_silently_what_is_made(
  tmp_path, environment
):
  """/dev/full: every write to it fails."""
  program = [sys.executable, '-c', PROGRAM, str(tmp_path / 'end')]
  variables = environment(PYTHONUNBUFFERED='1')
  for out, err, good in (('/dev/null', '/dev/full', True), ('/dev/full', None, False)):
    with open(out, 'w') as stdout, open(err or '/dev/null', 'w') as stderr:
      done = subprocess.run(
        program, env=variables, input=b'go\n', stdout=stdout, stderr=stderr, check=False
      )
    assert (done.returncode == 0) == good


@pytest.mark.parametrize('closed', ['1>&-', '2>&-'])
def test_a_stream_that_was_closed_before(tmp_path, environment, closed):
  program = [sys.executable, '-c', PROGRAM, str(tmp_path / 'end')]
  subprocess.run(
    ['sh', '-c', f'exec "$@" {closed}', 'sh', *program],
    env=environment(),
    input=b'go\n',
    capture_output=True,
    check=True,
  )
  assert (tmp_path / 'end').read_text() == 'done'
