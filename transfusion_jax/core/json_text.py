"""JSON and JSON Lines from anywhere: one reader, whose errors a person can mend.

Text is UTF-8 with or without a byte order mark. A line ends at a line feed and nowhere
else: U+2028 and its like may stand within a string. Lines of white space are no lines.
"""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

DEEPEST = 64
"""Lists and objects inside one another; deeper ones exhaust the stack of who reads."""


_SPACE = re.compile(r'[ \t\n\r]*')


def parse(text: str | bytes) -> Any:
  """A value in JSON.

  Raises:
    ValueError: it is none, or is nested too deep.
  """
  try:
    text = text.decode('utf-8-sig') if isinstance(text, bytes) else text
    value = json.loads(text)
  except UnicodeDecodeError as error:
    raise ValueError(
      f'expected text in UTF-8, found byte 0x{error.object[error.start]:02x} at '
      f'{error.start}; save it as UTF-8'
    ) from error
  except json.JSONDecodeError as error:
    line = f'line {error.lineno}, ' if error.lineno > 1 else ''
    raise ValueError(
      f'expected JSON, found a mistake ({error.msg}) at {line}column {error.colno}; '
      'write it again'
    ) from error
  except RecursionError as error:
    raise _too_deep() from error
  if text.count('[') + text.count('{') > DEEPEST and _deeper(value, DEEPEST):
    raise _too_deep()
  return value


def parse_object(text: str | bytes) -> dict[str, Any]:
  """An object in JSON.

  Raises:
    ValueError: it is none, or is nested too deep.
  """
  value = parse(text)
  if not isinstance(value, dict):
    raise ValueError(
      f'expected a JSON object, found {_kind(value)}; write it as {{"name": value}}'
    )
  return value


def read_object(path: pathlib.Path) -> dict[str, Any]:
  """The object that a file holds.

  Raises:
    ValueError: the file cannot be read, or holds something else; its path comes first.
  """
  try:
    return parse_object(path.read_bytes())
  except OSError as error:
    raise ValueError(
      f'expected a readable file, found {path}: {error.strerror}; check the path'
    ) from error
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def elements(data: bytes) -> Iterator[tuple[int, int]]:
  """Begin and end, in bytes, of every value in a list in JSON.

  Raises:
    ValueError: it is no list, or there is a mistake in it.
  """
  try:
    text = data.decode('utf-8-sig')
    yield from _elements(text, len(data) - len(text.encode()))
  except UnicodeDecodeError as error:
    raise ValueError(
      f'expected text in UTF-8, found byte 0x{data[error.start]:02x} at {error.start}; '
      'save it as UTF-8'
    ) from error
  except json.JSONDecodeError as error:
    raise ValueError(
      f'expected a list in JSON, found a mistake ({error.msg}) at line {error.lineno}, '
      f'column {error.colno}; write it again'
    ) from error
  except RecursionError as error:
    raise _too_deep() from error


def _elements(text: str, offset: int) -> Iterator[tuple[int, int]]:
  """The same of text, of which `offset` bytes are left out in front."""
  decoder, at, told = json.JSONDecoder(), 0, 0

  def after(signs: str, place: int) -> int:
    """Behind one of the signs, and white space around it."""
    place = _SPACE.match(text, place).end()
    if text[place : place + 1] not in tuple(signs):
      raise json.JSONDecodeError(f'Expecting {" or ".join(signs)}', text, place)
    return _SPACE.match(text, place + 1).end()

  at = after('[', 0)
  sign = ']' if text[at : at + 1] == ']' else ','
  while sign == ',':
    _, end = decoder.raw_decode(text, at)
    begin = offset + len(text[told:at].encode())
    offset, told = begin + len(text[at:end].encode()), end
    yield begin, offset
    at = after(',]', end)
    sign = text[end:at].strip()
  rest = text[at:].strip().removeprefix(']' if not told else '').strip()
  if rest:
    raise json.JSONDecodeError('Extra data', text, at)


def lines(data: bytes) -> Iterator[tuple[int, bytes]]:
  """Number, from 1, and content of every line that is not of white space alone."""
  for number, line in enumerate(data.removeprefix(b'\xef\xbb\xbf').split(b'\n'), 1):
    if line.strip():
      yield number, line


def _deeper(value: Any, depth: int) -> bool:
  """Whether lists and objects stand in one another more than `depth` deep."""
  level = [value]
  for _ in range(depth):
    level = [inner for each in level for inner in _inner(each)]
  return any(isinstance(each, list | dict) for each in level)


def _inner(value: Any) -> list[Any]:
  found = value.values() if isinstance(value, dict) else value
  return list(found) if isinstance(value, list | dict) else []


def _kind(value: Any) -> str:
  names = {list: 'a list', str: 'a text', bool: 'true or false', type(None): 'null'}
  return names.get(type(value), 'a number')


def _too_deep() -> ValueError:
  return ValueError(
    f'expected JSON of at most {DEEPEST} lists and objects inside one another, found '
    'more; write it flatter'
  )
