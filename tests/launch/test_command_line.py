"""What a user can get wrong: one line that says the way out, before anything runs."""

import importlib

import pytest

TRAIN = ('python', '-m', 'transfusion_jax.train', '--distributed', '--workdir=/runs/a')
CLUSTER = {'name': 'run1', 'topology': 'v5e:4x4', 'image': 'image'}
WHERE = {'project': 'p', 'zone': 'us-west4-a'}
FLAGS = {
  'launch.local': {'processes': '2', 'devices': '4'},
  'launch.tpu_vm': {'name': 'run1', 'topology': 'v5e:4x4', **WHERE},
  'launch.xpk': {**CLUSTER, **WHERE, 'cluster': 'c', 'storage': 'runs'},
  'launch.gke.__main__': {**CLUSTER, 'claim': 'runs:/runs'},
}
REMOTE = [name for name in FLAGS if name != 'launch.local']
GKE = ['launch.xpk', 'launch.gke.__main__']


def refused(
  capsys, module: str, *more: str, command=TRAIN, **changed: str | None
) -> str:
  """The one line that a launcher ends with."""
  given = {**FLAGS[module], **changed}
  flags = [f'--{name}={value}' for name, value in given.items() if value is not None]
  behind = ['--', *command] if command is not None else []
  with pytest.raises(SystemExit, match='2'):
    importlib.import_module(module).main([*flags, *more, *behind])
  said = capsys.readouterr()
  assert said.out == ''
  (line,) = said.err.splitlines()
  assert line.startswith('error: expected ')
  assert ', found ' in line
  assert ';' in line or '--help' in line
  return line


@pytest.fixture(autouse=True)
def nothing_is_installed(monkeypatch):
  """A PATH without gcloud, xpk or a shell: nothing can run."""
  monkeypatch.setenv('PATH', '/nowhere')


@pytest.mark.parametrize('module', FLAGS)
@pytest.mark.parametrize('command', [None, ()])
def test_no_command(capsys, module, command):
  assert 'a command behind --' in refused(capsys, module, command=command)


@pytest.mark.parametrize(('module', 'name'), [(m, n) for m in FLAGS for n in FLAGS[m]])
def test_a_missing_flag(capsys, module, name):
  assert f'expected --{name}, found none' in refused(capsys, module, **{name: None})


@pytest.mark.parametrize('module', FLAGS)
def test_an_unknown_flag(capsys, module):
  assert '--topologie' in refused(capsys, module, '--topologie=v5e:4x4')


@pytest.mark.parametrize('module', REMOTE)
@pytest.mark.parametrize(
  ('changed', 'said'),
  [
    ({'slices': '0'}, '--slices'),
    ({'slices': 'two'}, 'two'),
    ({'topology': 'v9:4x4'}, '--topology'),
    ({'topology': 'v5e:4x5'}, 'nearest'),
    ({'name': 'Run_1'}, '--name'),
    ({'name': 'a' * 41}, '--name'),
  ],
)
def test_what_cannot_be_asked_for(capsys, module, changed, said):
  assert said in refused(capsys, module, **changed)


@pytest.mark.parametrize('module', REMOTE)
@pytest.mark.parametrize(
  ('command', 'said'),
  [
    (('python', 'a.py'), 'add it'),
    (('python', 'a.py', '--distributed', '--workdir=gs://a/b'), "'gs://a/b'"),
    (('python', 'a.py', '--distributed', '--workdir', 'runs/a'), "'runs/a'"),
  ],
)
def test_commands_that_only_work_here(capsys, module, command, said):
  assert said in refused(capsys, module, command=command)


@pytest.mark.parametrize('module', GKE)
@pytest.mark.parametrize(
  ('changed', 'said'),
  [
    ({'topology': 'v5p:2x2x1', 'slices': '2'}, 'larger slice'),
    ({'restarts': '-1'}, '--restarts'),
    ({'grace': '0'}, '--grace'),
  ],
)
def test_what_a_cluster_cannot_do(capsys, module, changed, said):
  assert said in refused(capsys, module, **changed)


NUMBERS = [
  *(('launch.local', name) for name in ('processes', 'devices')),
  *((module, 'slices') for module in REMOTE),
  *((module, name) for module in GKE for name in ('restarts', 'grace')),
  ('launch.tpu_vm', 'attempts'),
]


@pytest.mark.parametrize(('module', 'name'), NUMBERS)
@pytest.mark.parametrize('value', ['-1', '9' * 20, '9' * 5000, 'nan', '1e3', '', '\n'])
def test_numbers_have_a_range(capsys, module, name, value):
  line = refused(capsys, module, **{name: value})
  assert line.startswith(f'error: expected --{name} from ')


@pytest.mark.parametrize('claim', ['runs', 'runs:', ':/runs', 'runs:runs'])
def test_a_claim_without_a_place(capsys, claim):
  assert '--claim' in refused(capsys, 'launch.gke.__main__', claim=claim)


def test_what_gcloud_cannot_name(capsys):
  assert 'launch.xpk' in refused(capsys, 'launch.tpu_vm', topology='tpu7x:4x4x4')


def test_no_attempt(capsys):
  assert '--attempts' in refused(capsys, 'launch.tpu_vm', attempts='0')


@pytest.mark.parametrize(
  ('module', 'said'),
  [('launch.tpu_vm', 'Google Cloud CLI'), ('launch.xpk', 'pip install xpk')],
)
def test_a_program_that_is_not_installed(capsys, module, said):
  assert said in refused(capsys, module)


@pytest.mark.parametrize('module', FLAGS)
def test_help(capsys, module):
  with pytest.raises(SystemExit, match='0'):
    importlib.import_module(module).main(['--help'])
  said = capsys.readouterr().out
  assert module.removesuffix('.__main__') in said
  assert '--dry-run' in said
