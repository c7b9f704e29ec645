"""JSON files and log lines with checksums, for files that decide the results of a run.

A file is an object whose last field, `sha256`, is the digest of all text before it. A
log line is an object whose last field, `crc`, is the CRC-32 of the rest. Both stay
readable for people and other programs, and any changed bit is detected.
"""

import hashlib
import json
import pathlib
import re
import zlib
from collections.abc import Mapping
from typing import Any

from transfusion_jax.core import json_text

_FILE_END = re.compile(rb',\n  "sha256": "([0-9a-f]{64})"\n}\n')
_FILE_TAIL = len(',\n  "sha256": ""\n}\n') + 64
_LINE_END = re.compile(rb', "crc": "([0-9a-f]{8})"}')
_LINE_TAIL = len(', "crc": ""}') + 8


class Damaged(ValueError):
  """Error: a file or a line differs from what was written."""


def text(value: Mapping[str, Any]) -> str:
  """Text of a file with a value and its digest."""
  assert value
  assert 'sha256' not in value, value
  body = json.dumps(dict(value), indent=2).removesuffix('\n}')
  digest = hashlib.sha256(body.encode()).hexdigest()
  return f'{body},\n  "sha256": "{digest}"\n}}\n'


def write(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  """Writes a file atomically: readers see the old or the new content, never a part."""
  replace(path, text(value))


def replace(path: pathlib.Path, content: str) -> None:
  """Replaces a file by some text atomically."""
  fresh = path.with_name(path.name + '.tmp')
  fresh.write_text(content, encoding='utf-8')
  fresh.replace(path)


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file that `write` has written.

  Raises:
    Damaged: the file cannot be read, or differs from what was written.
  """
  try:
    data = path.read_bytes()
  except OSError as error:
    raise Damaged(
      f'expected {path} to be readable, found {error.strerror}; check the folder'
    ) from error
  end = _FILE_END.fullmatch(data[-_FILE_TAIL:])
  body = data[:-_FILE_TAIL]
  if not end or hashlib.sha256(body).hexdigest().encode() != end[1]:
    raise Damaged(
      f'expected {path} as it was written, found it changed since (its digest is '
      'another); bring a copy back'
    )
  return json_text.parse_object(body + b'\n}')


def line(record: Mapping[str, Any]) -> bytes:
  """Log line of a record, with its checksum and line feed."""
  assert record
  assert 'crc' not in record, record
  body = json.dumps(dict(record)).removesuffix('}').encode()
  return body + f', "crc": "{zlib.crc32(body):08x}"}}\n'.encode()


def read_line(data: bytes) -> dict[str, Any]:
  """Reads a log line, given without its line feed.

  Raises:
    Damaged: the line differs from what was written.
  """
  end, body = _LINE_END.fullmatch(data[-_LINE_TAIL:]), data[:-_LINE_TAIL]
  if not end or f'{zlib.crc32(body):08x}'.encode() != end[1]:
    raise Damaged('expected a line as it was written, found it changed since')
  return json_text.parse_object(body + b'}')
