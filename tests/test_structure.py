"""The shape of the code: who may import whom, and what keeps it readable.

ARCHITECTURE.md says why. Every rule is a function from source to complaints, and every
rule is shown on made-up source to be able to complain.
"""

import ast
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = 'transfusion_jax'

COMMANDS = (
  'train',
  'sample',
  'demo',
  'evaluate',
  'compile_check',
  'encode_images',
  'import_weights',
  'report',
)

LAYERS = (
  'core',
  'ops  diffusion  data',
  'models',
  'objectives  generation',
  'training  evaluation',
  'compiling',
  'runs.config',
  'runs.evaluators',
  'runs.build',
  'runs.restore',
  'runs.preflight  runs.input  runs.evaluate  runs.requests',
  'runs.run_report',
  'runs.stages',
  'runs.autoencoder',
  'runs.generative',
  'web.uploads',
  'web.gate',
  'web.handlers  web.backend',
  'web.page',
  'sweeping',
  ' '.join(COMMANDS),
)
"""From the bottom to the top: a name imports itself and names on earlier lines."""

USED_BY = {
  'compiling': 'compile_check',
  'runs.stages': 'runs train',
  'runs.autoencoder': 'runs train',
  'runs.generative': 'runs train',
  'web': 'web demo',
  'sweeping': '',
}
"""Narrower: the only importers of a name, beside itself."""

BEHIND_THE_PAGE = ' '.join(LAYERS[1 : LAYERS.index('web.uploads')])
NEVER = {
  'training.step': 'models',
  'training.loop': 'models',
  'web.uploads': BEHIND_THE_PAGE,
  'web.gate': BEHIND_THE_PAGE,
}
"""Narrower: names that a module does not import though they are on earlier lines."""

FOREIGN: Mapping[str, str] = {
  'flax': 'models/',
  'orbax': 'training/checkpoint',
  'grain': 'data/',
  'tensorflow_datasets': 'data/',
  'fsspec': 'data/sources/files.py',
  'pyarrow': 'data/sources/parquet.py',
  'array_record': 'data/sources/array_record.py',
  'msgpack': 'data/sources/array_record.py',
}
"""Foreign packages and the only place that imports them."""

NO_JAX = ('jax', 'jaxlib', 'flax', 'optax', 'orbax', 'chex')
"""What `data` never imports, so that its workers cannot touch an accelerator."""

VAGUE = re.compile(r'(utils?|common|misc|helpers?)\.py|base_.*\.py')
LINES_FILE, LINES_KERNEL, LINES_FUNCTION = 350, 450, 60
KERNEL = re.compile(rf'{PACKAGE}/ops/attention_\w+\.py')
FIRST_WORDS = frozenset(
  ('What', 'Whether', 'Of', 'Which', 'Where', 'How', 'Who', 'As', 'Those', 'That')
  + ('To', 'Its', 'When')
)
"""Words that no docstring begins with."""

LEFT = {
  'at random': r'by lot\b',
  'callback': r'interludes?',
  'LoopContext': r'surroundings',
  'SamplingParams': r'wishes',
  'backend': r'studios?',
  'handlers': r'buttons(?=\.)|class Buttons',
  'metadata': r'papers\(|\.papers\b',
  'skip_broken': r'forgive\w*',
}
"""Words of the field, and those that stood for them and do not come back."""

MACHINE_PATH = re.compile(r'(?<![\w.$}])/(work|home|root|tmp|mnt|Users)/\w')


def sources(*folders: str) -> dict[str, str]:
  """Python files below some folders, by path from the root of the repository."""
  paths = [path for folder in folders for path in (ROOT / folder).rglob('*.py')]
  return {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(paths)}


def module_name(path: str) -> str:
  return path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')


def imports(source: str) -> Iterator[tuple[int, str]]:
  """Line and dotted name of everything imported, wherever in the file it stands."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      origin = '.' * node.level + (node.module or '')
      yield from ((node.lineno, f'{origin}.{alias.name}') for alias in node.names)


def layer(name: str) -> tuple[str, int] | None:
  """The longest name in `LAYERS` that a dotted name begins with, and its line."""
  found = [
    (each, line)
    for line, names in enumerate(LAYERS)
    for each in names.split()
    if f'{name}.'.startswith(f'{each}.')
  ]
  return max(found, key=lambda pair: len(pair[0]), default=None)


def within(name: str, prefixes: str) -> bool:
  return any(f'{name}.'.startswith(f'{each}.') for each in prefixes.split())


def layering(path: str, source: str) -> list[str]:
  """Imports of ours that point upwards or sideways."""
  name = module_name(path).partition('.')[2]
  own = layer(name)
  empty = name == '' or any(f' {name}.' in f' {names}' for names in LAYERS)
  if own is None and not empty:
    return [f'{path}: expected a name in LAYERS, found a new one; add it to its line']
  found = []
  for line, imported in imports(source):
    top, _, other = imported.partition('.')
    if top in ('', 'tests', 'configs', 'benchmarks', 'launch'):
      found.append(f'{path}:{line}: imports {imported}; import only {PACKAGE}.*')
    elif top == PACKAGE and other not in ('', '__version__'):
      reason = refused(name, own, other)
      if reason:
        found.append(f'{path}:{line}: imports {imported}; {reason}')
  return found


def refused(name: str, own: tuple[str, int] | None, other: str) -> str:
  """Why a module may not import another of ours; empty if it may."""
  its = layer(other)
  if own is None or its is None:
    return 'a folder of layers imports nothing, and nothing imports it whole'
  if its[0] != own[0] and its[1] >= own[1]:
    return f'{own[0]} imports only what is on an earlier line of LAYERS'
  for used, by in USED_BY.items():
    if within(other, used) and not within(name, f'{used} {by}'):
      return f'only {by or "nothing"} imports {used}'
  if within(other, NEVER.get(name, '')):
    return f'{name} receives functions instead'
  return ''


def foreign(path: str, source: str) -> list[str]:
  """Foreign packages imported outside their one place, and JAX in `data`."""
  inside = path.removeprefix(f'{PACKAGE}/')
  found = []
  for line, imported in imports(source):
    top = imported.split('.')[0]
    if top in FOREIGN and not inside.startswith(FOREIGN[top]):
      found.append(f'{path}:{line}: {top} is imported only in {FOREIGN[top]}')
    if top in NO_JAX and inside.startswith('data/'):
      found.append(f'{path}:{line}: data never imports {top}')
  return found


def commands_beside_others(path: str, source: str) -> list[str]:
  """Imports of commands by tests, which all run in one process.

  Two commands may each define `--workdir`, but not in the same process.
  """
  if not path.rsplit('/', 1)[-1].startswith('test_'):
    return []
  return [
    f'{path}:{line}: imports the command {imported}; run it, or test what it calls'
    for line, imported in imports(source)
    if imported in {f'{PACKAGE}.{name}' for name in COMMANDS}
  ]


def unread_fields(files: Mapping[str, str]) -> list[str]:
  """Fields of `*Config` dataclasses that no code reads.

  A field is read by attribute, or by `getattr` under a name that stands as a string in
  the same file. Checking a value in `__post_init__` is not using it.
  """
  fields: list[tuple[str, str, str]] = []
  read: set[str] = set()
  for path, source in files.items():
    tree = ast.parse(source)
    for node in ast.walk(tree):
      if isinstance(node, ast.FunctionDef) and node.name == '__post_init__':
        node.body = []
    nodes = list(ast.walk(tree))
    for node in nodes:
      if isinstance(node, ast.ClassDef) and node.name.endswith('Config'):
        names = [
          each.target.id for each in node.body if isinstance(each, ast.AnnAssign)
        ]
        fields += [(path, node.name, name) for name in names]
    read |= {
      node.attr
      for node in nodes
      if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    if any(isinstance(node, ast.Name) and node.id == 'getattr' for node in nodes):
      read |= {node.value for node in nodes if isinstance(node, ast.Constant)}
  return [
    f'{path}: {owner}.{name} is read nowhere; use it or remove it'
    for path, owner, name in fields
    if name not in read
  ]


def flags_without_range(path: str, source: str) -> list[str]:
  """Flags that take a number, whichever: absl's integers and floats, argparse's types.

  `command.define_number` and `command_line.whole` are what there is instead; integers
  of absl have both bounds.
  """
  found = []
  for node in ast.walk(ast.parse(source)):
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
      continue
    name, named = node.func.attr, {each.arg: each.value for each in node.keywords}
    bounds = len(node.args) + len({'lower_bound', 'upper_bound'} & set(named))
    ranged = bounds >= 5 or any(isinstance(each, ast.Starred) for each in node.args)
    kind = named.get('type') if name == 'add_argument' else None
    plain = isinstance(kind, ast.Name) and kind.id in ('int', 'float')
    if plain or name == 'DEFINE_float' or (name == 'DEFINE_integer' and not ranged):
      found.append(f'{path}:{node.lineno}: a number without a range; declare one')
  return found


def methods_by_made_names(path: str, source: str) -> list[str]:
  """Methods looked up by a name that is put together; a literal table says which."""
  return [
    f'{path}:{node.lineno}: {ast.unparse(node)}; write a table'
    for node in ast.walk(ast.parse(source))
    if isinstance(node, ast.Call)
    and ast.unparse(node.func) == 'getattr'
    and isinstance(node.args[1], ast.JoinedStr)
  ]


def package_file(path: str, source: str) -> list[str]:
  """An `__init__.py` holds a docstring; at the top, the version too."""
  body = ast.parse(source).body
  if not body or ast.get_docstring(ast.parse(source)) is None:
    return [f'{path}: expected a docstring that says what the folder holds']
  rest = [ast.unparse(node) for node in body[1:]]
  if path == f'{PACKAGE}/__init__.py':
    rest = [line for line in rest if not line.startswith('__version__ = ')]
  return [f'{path}: expected a docstring alone, found {line!r}' for line in rest]


def lengths(path: str, source: str) -> list[str]:
  """Files and functions that are too long to be read in one go."""
  limit = LINES_KERNEL if KERNEL.fullmatch(path) else LINES_FILE
  count = len(source.splitlines())
  found = [f'{path}: expected at most {limit} lines, found {count}'] * (count > limit)
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      count = node.end_lineno - node.lineno + 1
      if count > LINES_FUNCTION:
        found.append(
          f'{path}:{node.lineno}: expected at most {LINES_FUNCTION} lines in '
          f'{node.name}, found {count}'
        )
  return found


def vague_names(paths: Mapping[str, str]) -> list[str]:
  """Files whose name does not say what is in them."""
  return [
    f'{path}: name the file after what it holds'
    for path in paths
    if VAGUE.fullmatch(path.rsplit('/', 1)[-1])
  ]


def docstrings(source: str) -> Iterator[tuple[int, str]]:
  """Line and text of every docstring, attribute docstrings included."""
  for node in ast.walk(ast.parse(source)):
    body = getattr(node, 'body', None)
    for each in body if isinstance(body, list) else ():
      value = each.value if isinstance(each, ast.Expr) else None
      if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield each.lineno, value.value


def first_words(path: str, source: str) -> list[str]:
  """Docstrings that begin neither with a noun nor with a verb."""
  return [
    f'{path}:{line}: begins with {text.split()[0]!r}; name the thing or the action'
    for line, text in docstrings(source)
    if text.split() and text.split()[0].strip(',:') in FIRST_WORDS
  ]


def machine_paths(path: str, text: str) -> list[str]:
  """Absolute paths of somebody's machine."""
  return [
    f'{path}:{number}: {line.strip()!r} names a path of one machine'
    for number, line in enumerate(text.splitlines(), start=1)
    if MACHINE_PATH.search(line)
  ]


def words_left(path: str, text: str) -> list[str]:
  """Words that the field has another one for."""
  return [
    f'{path}:{number}: expected {new!r}, found {found[0]!r}'
    for new, old in LEFT.items()
    for number, line in enumerate(text.splitlines(), start=1)
    for found in [re.search(rf'(?<![a-z]){old}', line, re.IGNORECASE)]
    if found
  ]


OURS = sources(PACKAGE)
READ = sources(PACKAGE, 'configs', 'launch', 'benchmarks')
ALL = READ | sources('tests')


@pytest.mark.parametrize('rule', [layering, foreign], ids=lambda rule: rule.__name__)
def test_imports(rule):
  _none([line for path, source in OURS.items() for line in rule(path, source)])


def test_commands_are_not_imported_into_the_process_of_all_tests():
  _none(
    [line for path, text in ALL.items() for line in commands_beside_others(path, text)]
  )


def test_every_config_field_is_read():
  _none(unread_fields(OURS))


def test_numbers_of_flags_have_a_range():
  files = sources(PACKAGE, 'launch')
  del files[f'{PACKAGE}/core/command.py']  # `define_number` itself
  _none(
    [
      line
      for path, source in files.items()
      for line in flags_without_range(path, source)
    ]
  )


def test_methods_are_not_looked_up_by_made_names():
  _none(
    [line for path, text in READ.items() for line in methods_by_made_names(path, text)]
  )


def test_package_files_hold_a_docstring():
  files = {path: text for path, text in OURS.items() if path.endswith('/__init__.py')}
  folders = {path.rsplit('/', 1)[0] for path in OURS}
  assert {path.rsplit('/', 1)[0] for path in files} == folders
  _none([line for path, source in files.items() for line in package_file(path, source)])


def test_files_and_functions_are_short():
  _none([line for path, source in READ.items() for line in lengths(path, source)])


def test_files_are_named_after_what_they_hold():
  _none(vague_names(ALL))


def test_docstrings_begin_with_a_noun_or_a_verb():
  _none([line for path, source in READ.items() for line in first_words(path, source)])


def test_no_paths_of_one_machine():
  patterns = ('*.md', '*.toml', '*.py', '.ci/run', 'launch/**/*.*')
  others = {path for pattern in patterns for path in ROOT.glob(pattern)}
  others = {path for path in others if path.is_file() and path.suffix != '.pyc'}
  texts = {path.name: path.read_text() for path in others} | ALL
  _none([line for path, text in texts.items() for line in machine_paths(path, text)])


def test_words_that_were_left_do_not_come_back():
  texts = {path.name: path.read_text() for path in ROOT.glob('*.md')} | ALL
  for path in ('tests/test_structure.py', f'{PACKAGE}/core/renamed.py'):
    del texts[path]  # which name them
  _none([line for path, text in texts.items() for line in words_left(path, text)])


def test_data_works_without_jax(environment):
  """Not even transitively: data is imported in a process where JAX cannot be.

  Grain imports JAX where it finds it, and does without where it does not; so what is
  asked is not whether JAX is loaded, but whether anything needs it.
  """
  names = [module_name(path) for path in OURS if path.startswith(f'{PACKAGE}/data/')]
  blocked = [name for name in NO_JAX if name != 'chex']
  program = '\n'.join(
    [
      'import sys',
      f'sys.modules.update(dict.fromkeys({blocked}))',
      *[f'import {name}' for name in names],
      f'print([name for name in {blocked} if sys.modules[name] is not None])',
    ]
  )
  done = subprocess.run(
    [sys.executable, '-c', program],
    env=environment(PYTHONPATH=str(ROOT)),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, f'a data module needs JAX:\n{done.stderr}'
  assert done.stdout.strip() == '[]'


@pytest.mark.parametrize(
  ('path', 'source', 'complaints'),
  [
    ('ops/a.py', 'from transfusion_jax.core import tree', 0),
    ('ops/a.py', 'from transfusion_jax.ops import span', 0),
    ('ops/a.py', 'import numpy\nfrom jax import numpy', 0),
    ('ops/a.py', 'from transfusion_jax.models import batch', 1),
    ('ops/a.py', 'from transfusion_jax.data.rows import layout', 1),
    ('ops/a.py', 'def f():\n  import transfusion_jax.training.step', 1),
    ('ops/a.py', 'if X:\n  from transfusion_jax.runs import build', 1),
    ('core/a.py', 'from transfusion_jax.ops import span', 1),
    ('diffusion/a.py', 'from transfusion_jax.models import batch', 1),
    ('objectives/a.py', 'from transfusion_jax.generation import text', 1),
    ('generation/a.py', 'from transfusion_jax.data.rows import layout', 0),
    ('evaluation/a.py', 'from transfusion_jax.generation import text', 0),
    ('evaluation/a.py', 'from transfusion_jax.training import step', 1),
    ('training/a.py', 'from transfusion_jax.evaluation import report', 1),
    ('training/a.py', 'from transfusion_jax.models import module', 0),
    ('training/step.py', 'from transfusion_jax.models import module', 1),
    ('training/loop.py', 'from transfusion_jax.runs import config', 1),
    ('compiling/a.py', 'from transfusion_jax.training import mesh', 0),
    ('compiling/a.py', 'from transfusion_jax.runs import build', 1),
    ('training/a.py', 'from transfusion_jax.compiling import hlo', 1),
    ('compile_check.py', 'from transfusion_jax.compiling import hlo', 0),
    ('train.py', 'from transfusion_jax.compiling import hlo', 1),
    ('sweeping/a.py', 'from transfusion_jax.runs import evaluate, preflight', 0),
    ('sweeping/a.py', 'from transfusion_jax import train', 1),
    ('train.py', 'from transfusion_jax.sweeping import ledger', 1),
    ('runs/config.py', 'from transfusion_jax.training import loop', 0),
    ('runs/config.py', 'from transfusion_jax.runs import build', 1),
    ('runs/build.py', 'from transfusion_jax.runs import config', 0),
    ('runs/input.py', 'from transfusion_jax.runs import preflight', 1),
    ('runs/a.py', '', 1),
    ('runs/__init__.py', '', 0),
    ('runs/__init__.py', 'from transfusion_jax.runs import config', 1),
    ('sample.py', 'from transfusion_jax.runs import generative', 1),
    ('train.py', 'from transfusion_jax.runs import generative', 0),
    ('web/gate.py', 'from transfusion_jax.web import uploads', 0),
    ('web/gate.py', 'from transfusion_jax.generation import tasks', 1),
    ('web/page.py', 'from transfusion_jax.web import gate, handlers', 0),
    ('demo.py', 'from transfusion_jax.web import page', 0),
    ('train.py', 'from transfusion_jax.web import page', 1),
    ('train.py', 'from transfusion_jax import runs', 1),
    (
      'train.py',
      'import transfusion_jax\nfrom transfusion_jax.runs import build, config',
      0,
    ),
    ('train.py', 'from transfusion_jax import __version__', 0),
    ('train.py', 'from transfusion_jax import sample', 1),
    ('train.py', 'from configs import base', 1),
    ('__init__.py', 'from transfusion_jax import train', 1),
    ('tools.py', '', 1),
    ('ops/a.py', 'from . import span', 1),
    ('ops/a.py', 'from ..models import batch', 1),
  ],
)
def test_layering_can_fail(path, source, complaints):
  assert len(layering(f'{PACKAGE}/{path}', source)) == complaints


@pytest.mark.parametrize(
  ('path', 'source', 'complaints'),
  [
    ('models/a.py', 'from flax import nnx', 0),
    ('training/a.py', 'from flax import nnx', 1),
    ('training/a.py', 'import flax.nnx as nnx', 1),
    ('training/checkpoint_reader.py', 'import orbax.checkpoint', 0),
    ('training/loop.py', 'import orbax.checkpoint', 1),
    ('data/a.py', 'import grain\nimport tensorflow_datasets as tfds', 0),
    ('train.py', 'import grain\nimport tensorflow_datasets as tfds', 2),
    ('data/a.py', 'def f():\n  import jax.numpy as jnp', 1),
    ('data/sources/files.py', 'import fsspec', 0),
    ('data/sources/folder.py', 'import fsspec\nimport msgpack', 2),
    ('data/sources/parquet.py', 'def f():\n  from pyarrow import parquet', 0),
    ('data/pipeline.py', 'def f():\n  from pyarrow import parquet', 1),
    ('ops/a.py', 'import jax', 0),
  ],
)
def test_foreign_can_fail(path, source, complaints):
  assert len(foreign(f'{PACKAGE}/{path}', source)) == complaints


def test_commands_beside_others_can_fail():
  both = 'from transfusion_jax import __version__, train'
  assert len(commands_beside_others('tests/test_a.py', both)) == 1
  assert not commands_beside_others('tests/test_a.py', 'from transfusion_jax import x')
  assert not commands_beside_others('tests/parity/against_a.py', both)


def test_unread_fields_can_fail():
  section = 'class AConfig:\n  read: int\n  named: int\n  unread: int\n  checked: int\n'
  section += '  def __post_init__(self):\n    assert self.checked\n'
  use = 'def f(config):\n  config.unread = 1\n  return config.read'
  by_name = "def f(config):\n  return [getattr(config, name) for name in ('named',)]"
  found = unread_fields({'a.py': section, 'b.py': use, 'c.py': by_name})
  assert [line.split()[1] for line in found] == ['AConfig.unread', 'AConfig.checked']


@pytest.mark.parametrize(
  ('source', 'complaints'),
  [
    ("flags.DEFINE_integer('a', 1, 'A.', 0, 9)", 0),
    ("flags.DEFINE_integer('a', 1, 'A.', lower_bound=0, upper_bound=9)", 0),
    ("flags.DEFINE_integer('a', 1, 'A.', *SEEDS)", 0),
    ("command.define_number('a', 1.0, 'A.')", 0),
    ("parser.add_argument('--a', type=whole(0, 9))", 0),
    ("flags.DEFINE_integer('a', 1, 'A.')", 1),
    ("flags.DEFINE_integer('a', 1, 'A.', 0)", 1),
    ("flags.DEFINE_float('a', 1.0, 'A.', 0.0, 9.0)", 1),
    ("parser.add_argument('--a', type=int)", 1),
    ("parser.add_argument('--a', type=float)", 1),
  ],
)
def test_flags_without_range_can_fail(source, complaints):
  assert len(flags_without_range('a.py', source)) == complaints


def test_methods_by_made_names_can_fail():
  assert methods_by_made_names('a.py', "getattr(self, f'_{kind}')()")
  assert not methods_by_made_names('a.py', 'getattr(self, name)')


def test_package_file_can_fail():
  top, sub = f'{PACKAGE}/__init__.py', f'{PACKAGE}/ops/__init__.py'
  version = '"""What."""\n__version__ = "1"'
  assert not package_file(top, version)
  assert not package_file(sub, '"""What."""\n# why')
  assert package_file(sub, version)
  assert package_file(sub, '')
  assert package_file(sub, 'import jax')


def test_lengths_can_fail():
  path, kernel = f'{PACKAGE}/ops/span.py', f'{PACKAGE}/ops/attention_tpu.py'
  assert not lengths(path, 'a = 1\n' * LINES_FILE)
  assert lengths(path, 'a = 1\n' * (LINES_FILE + 1))
  assert not lengths(kernel, 'a = 1\n' * LINES_KERNEL)
  assert lengths(kernel, 'a = 1\n' * (LINES_KERNEL + 1))
  assert not lengths(path, 'def f():\n' + '  a = 1\n' * (LINES_FUNCTION - 1))
  assert lengths(path, 'def f():\n' + '  a = 1\n' * LINES_FUNCTION)


def test_names_can_fail():
  names = ['a/utils.py', 'a/common.py', 'misc.py', 'a/base_model.py', 'helper.py']
  assert len(vague_names(dict.fromkeys(names, ''))) == len(names)
  assert not vague_names(dict.fromkeys(['configs/base.py', 'a/span.py'], ''))


@pytest.mark.parametrize(
  ('source', 'complaints'),
  [
    ('"""Kinds of documents."""\ndef f():\n  """Draws noise levels."""', 0),
    ('"""Whatever remains."""', 0),
    ('"""What is drawn."""', 1),
    ('SIZE = 1\n"""Of a block."""', 1),
    ('class A:\n  """As told."""\n  size: int\n  """Where, and how large."""', 2),
    ('def f():\n  """True if found."""\n  class B:\n    """Whether: found."""', 1),
  ],
)
def test_first_words_can_fail(source, complaints):
  assert len(first_words('launch/a.py', source)) == complaints


def test_words_left_can_fail():
  assert len(words_left('a.py', 'by lot\n_forgive()\nclass Interlude:')) == 3
  assert not words_left('a.py', 'standby lots, at random, the wishing well')


def test_machine_paths_can_fail():
  for folder in ('work', 'home', 'root', 'tmp'):
    assert machine_paths('a.md', f'see /{folder}/someone')
  for before, folder in (('gs://bucket', 'tmp'), ('runs', 'home'), ('$HOME', 'work')):
    assert not machine_paths('a.md', f'{before}/{folder}/x')
  assert not machine_paths('a.md', 'from /dev/null')


def _none(complaints: list[str]) -> None:
  assert not complaints, '\n' + '\n'.join(complaints)
