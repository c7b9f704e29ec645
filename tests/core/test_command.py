"""Tests of `core.command`: whatever a user does wrong, or a disk, ends in one line.

Each case is a small command of its own in a process of its own, as a user's is.
"""

import subprocess
import sys

import pytest

from transfusion_jax.core import command

PROGRAM = """
from absl import flags
from ml_collections import config_flags
from transfusion_jax.core import command, renamed
renamed.FIELDS['data.old'] = 'data.new'
renamed.MODULES['transfusion_jax.gone'] = 'transfusion_jax.core'
config_flags.DEFINE_config_file('config', None, lock_config=True)
SCALE = command.define_number('scale', 1.0, 'A number.', low=0.0, high=10.0)
OUTPUT = flags.DEFINE_string('output', None, 'A file.')
def main():
  with command.user_errors():
    if OUTPUT.value:
      print(command.output_file('output', OUTPUT.value))
  if flags.FLAGS.config and 'late' in flags.FLAGS.config:
    open(flags.FLAGS.config.late).read()
  print('done')
command.run(main)
"""


@pytest.fixture
def run(tmp_path, environment):
  (tmp_path / 'program.py').write_text(PROGRAM)

  def act(*arguments, config=None):
    if config is not None:
      (tmp_path / 'mine.py').write_text(config)
      arguments = ('--config=mine.py', *arguments)
    done = subprocess.run(
      [sys.executable, 'program.py', *arguments],
      cwd=tmp_path,
      env=environment(),
      capture_output=True,
      text=True,
      check=False,
    )
    return done.returncode, done.stdout, done.stderr

  return act


@pytest.mark.parametrize(
  ('config', 'said'),
  [
    ('def get_config(:\n', 'mine.py:1: SyntaxError'),
    ('x = 1\nimport not_there\n', "mine.py:2: ModuleNotFoundError: No module named 'n"),
    ('def get_config():\n  return 1 / 0\n', 'mine.py:2: ZeroDivisionError'),
    ('def get_config():\n  return nothing\n', 'mine.py:2: NameError'),
    ('', 'get_config'),
  ],
)
def test_a_config_file_that_is_wrong_is_named_with_its_line(run, config, said):
  code, _, told = run(config=config)
  assert code == 2
  assert said in told
  assert told.startswith('error: ')
  assert told.count('\n') == 1


PAGE = """from ml_collections import ConfigDict
def get_config():
  page = ConfigDict({'data': {'new': 1}}).lock()
"""


@pytest.mark.parametrize(
  ('lines', 'arguments', 'said'),
  [
    (
      'from transfusion_jax import gone\n',
      [],
      'mine.py:1: ImportError: expected transfusion_jax.core, found its old name '
      'transfusion_jax.gone; change the import',
    ),
    (
      'import transfusion_jax.gone.log\n',
      [],
      'mine.py:1: ModuleNotFoundError: expected transfusion_jax.core, found its old '
      'name transfusion_jax.gone; change the import',
    ),
    (
      f'{PAGE}  return page\n',
      ['--config.data.old=2'],
      'expected --config.data.new, found its old name data.old; change it',
    ),
    *(
      (
        f'{PAGE}  {line}\n  return page\n',
        [],
        f'mine.py:4: {error}: expected data.new, found its old name old; change it',
      )
      for line, error in (
        ('page.data.old = 2', 'AttributeError'),
        ('page.data.update(old=2)', 'KeyError'),
        ('print(page.data.old)', 'AttributeError'),
        ('print(page.data["old"])', 'KeyError'),
      )
    ),
  ],
)
def test_old_names_are_told_with_the_new_ones(run, lines, arguments, said):
  code, _, told = run(*arguments, config=lines)
  assert (code, told.count('\n')) == (2, 1)
  assert told.endswith(f'{said}\n')
  assert told.startswith('error: ')


def test_an_error_within_another_is_said_as_it_is():
  inner = KeyError('\'stepz\'\nDid you mean "steps"?')
  for error in (inner, AttributeError(str(inner))):
    assert command.line(error) == '\'stepz\' Did you mean "steps"?'
  assert command.line(ValueError("'a' or b")) == "'a' or b"
  assert command.line(ValueError()) == 'ValueError'


@pytest.mark.parametrize('value', ['nan', 'inf', '-inf', '11', '-1', 'x'])
def test_numbers_out_of_range_are_refused(run, value):
  code, _, told = run(f'--scale={value}')
  assert code == 2
  assert told.startswith('error: ')
  assert told.count('\n') == 1


def test_files_that_cannot_be_written_are_refused_first(run, tmp_path):
  for output in ('nowhere/a.html', '.', 'program.py/a', 'gs://bucket/a.html'):
    code, out, told = run(f'--output={output}')
    assert (code, out, told.count('\n')) == (2, '', 1), output
  assert run('--output=a.html')[:2] == (0, f'{tmp_path / "a.html"}\ndone\n')


def test_storage_that_fails_later_ends_in_one_line(run):
  config = 'from ml_collections import ConfigDict\n'
  config += 'get_config = lambda: ConfigDict({"late": "gone.txt"})\n'
  code, _, told = run(config=config)
  assert code == 1
  assert 'gone.txt' in told
  assert told.count('\n') == 1
