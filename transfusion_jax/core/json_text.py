"""Reader of JSON and JSON Lines with errors that tell users what to fix.

Text is UTF-8 with or without a byte order mark. Only a line feed ends a line: U+2028
and similar characters may occur inside strings. Blank lines are skipped.
"""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

DEEPEST = 64
"""Largest nesting depth of lists and objects; more could overflow the stack."""


_SPACE = re.compile(r'[ \t\n\r]*')


def parse(text: str | bytes) -> Any:
  """Parses a JSON value.

  Raises:
    ValueError: the text is not JSON, or is nested too deeply.
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
  """Parses a JSON object.

  Raises:
    ValueError: the text is not a JSON object, or is nested too deeply.
  """
  value = parse(text)
  if not isinstance(value, dict):
    raise ValueError(
      f'expected a JSON object, found {_kind(value)}; write it as {{"name": value}}'
    )
  return value


def read_object(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file that holds one JSON object.

  Raises:
    ValueError: the file cannot be read or holds no object; the message begins with the
      path.
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
  """Byte ranges (begin, end) of the values of a JSON list.

  Raises:
    ValueError: the data is not a valid JSON list.
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
  """Byte ranges as in `elements`; `offset` bytes of the data precede the text."""
  decoder, at, told = json.JSONDecoder(), 0, 0

  def after(signs: str, place: int) -> int:
    """Position after one of the signs and the white space around it."""
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
  """Number (from 1) and content of every line that is not blank."""
  for number, line in enumerate(data.removeprefix(b'\xef\xbb\xbf').split(b'\n'), 1):
    if line.strip():
      yield number, line


def _deeper(value: Any, depth: int) -> bool:
  """True if lists and objects are nested more than `depth` deep."""
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
