"""Names that a config file or a command line may still use, and what they are now.

Both tables are consulted only where a name is unknown: what is found goes into the one
line that refuses it. A name that is known again must leave its table.
"""

import re
from collections.abc import Iterable

FIELDS: dict[str, str] = {}
"""Old field of a config to new one, dots and all: `'data.old': 'data.new'`.

A key holds for every section that ends so (`data.old` for `autoencoder.run.data.old`);
`*` in both stands for one name that a user has given: `'sources.*.old'`.
"""

MODULES: dict[str, str] = {}
"""Old module to new one, packages and all: `'package.a': 'package.b.a'`."""

_MISSING_KEY = re.compile(r'Key "(\w+)" does not exist|["\']*(\w+)["\']*(?:$| Did you)')
_MISSING_IMPORT = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")


def field(path: str) -> str:
  """The new name of a field, whole; empty where its name is not an old one."""
  for old, new in FIELDS.items():
    pattern = r'\.'.join(
      r'([^.]+)' if part == '*' else re.escape(part) for part in old.split('.')
    )
    found = re.fullmatch(rf'((?:.+\.)?){pattern}((?:\..+)?)', path)
    if found:
      before, *given, behind = found.groups()
      named = iter(given)
      parts = [next(named) if part == '*' else part for part in new.split('.')]
      return before + '.'.join(parts) + behind
  return ''


def module(path: str) -> str:
  """The new name of a module, or of what is in it; empty if it is not an old one."""
  for old, new in MODULES.items():
    if path == old or path.startswith(f'{old}.'):
      return new + path.removeprefix(old)
  return ''


def said(error: BaseException, text: str, arguments: Iterable[str]) -> str:
  """A line with the new name, where an old one is why a config cannot be had.

  Args:
    error: of a command line, or of the program that a config file is.
    text: what it says, on one line.
    arguments: of the command line.

  Returns:
    The line; empty where no old name is at fault.
  """
  if isinstance(error, ImportError):
    found = _MISSING_IMPORT.search(text)
    old = f'{found[2]}.{found[1]}' if found else error.name or ''
    new = module(old)
    return f'expected {new}, found its old name {old}; change the import' if new else ''
  found = _MISSING_KEY.match(text)
  if not found or not isinstance(error, KeyError | AttributeError):
    return ''
  key = found[1] or found[2]
  for argument in arguments:
    flag, _, path = argument.partition('=')[0].lstrip('-').partition('.')
    if key in path.split('.') and field(path):
      return f'expected --{flag}.{field(path)}, found its old name {path}; change it'
  new = {value for old, value in FIELDS.items() if key == old.split('.')[-1]}
  if not new:
    return ''
  return f'expected {" or ".join(sorted(new))}, found its old name {key}; change it'
