"""`metadata.jsonl` and `metadata.csv` beside pictures, as Hugging Face's ImageFolder.

Of every line `file_name` names a picture from the folder of the metadata; `text` and
other fields say something of it.
"""

import csv
import dataclasses
import io
import posixpath
from collections.abc import Iterator, Mapping, Set
from typing import Any

from transfusion_jax.core import json_text
from transfusion_jax.data.sources import files, source

NAMES = ('/metadata.jsonl', '/metadata.csv')
FILE = 'file_name'
TEXT = 'text'


@dataclasses.dataclass(frozen=True)
class Metadata:
  """Captions and other fields of images.

  Attributes:
    fields: of every picture that is named, by its name below the root.
    warnings: of what names no picture or says nothing.
  """

  fields: Mapping[str, source.Record]
  warnings: tuple[str, ...]


def read(found: files.Files, pictures: Set[str]) -> Metadata:
  """All metadata among some files; of lines about one picture, the first counts.

  Raises:
    ValueError: a file of them cannot be read.
  """
  fields: dict[str, source.Record] = {}
  warnings: list[str] = []
  for number, name in enumerate(found.names):
    if f'/{name}'.lower().endswith(NAMES):
      one, told = _one(found, number, pictures)
      fields = one | fields
      warnings += told
  return Metadata(fields, tuple(warnings))


def _one(
  found: files.Files, number: int, pictures: Set[str]
) -> tuple[dict[str, source.Record], list[str]]:
  """Fields in one file, and warnings."""
  path, name = found.path(number), found.names[number]
  fields: dict[str, source.Record] = {}
  strangers, nameless, again, known = [], 0, 0, set()
  for line, record in _lines(found.read(number), path):
    known |= record.keys()
    named = record.pop(FILE, None)
    if not isinstance(named, str):
      nameless += 1
      continue
    picture = posixpath.normpath(posixpath.join(posixpath.dirname(name), named))
    if picture not in pictures:
      strangers.append(f'{named[:200]!r} in line {line}')
    elif picture in fields:
      again += 1
    else:
      fields[picture] = record
  warnings = []
  if nameless:
    warnings.append(
      f'{path} has {nameless} lines without {FILE!r}, which are passed over; its '
      f'fields are {", ".join(sorted(known))}'
    )
  if strangers:
    warnings.append(
      f'{path} names {len(strangers)} pictures that are not there, such as '
      f'{strangers[0]}; names are taken from its folder'
    )
  if again:
    warnings.append(f'{path} has {again} more lines of pictures that it had before')
  if fields and TEXT not in known:
    warnings.append(
      f'{path} has no field {TEXT!r}; name one of its own, '
      f'{", ".join(sorted(known - {FILE}))}, in form.text'
    )
  return fields, warnings


def _lines(data: bytes, path: str) -> Iterator[tuple[int, source.Record]]:
  """Number, from 1, and fields of every line.

  Raises:
    ValueError: one of them is none; path and number come first.
  """
  try:
    if path.lower().endswith('.csv'):
      yield from _rows(source.text(data))
      return
    for line, content in json_text.lines(data):
      try:
        yield line, source.flatten(json_text.parse_object(source.text(content)))
      except ValueError as error:
        raise ValueError(f'line {line}: {error}') from error
  except (ValueError, csv.Error) as error:
    raise ValueError(f'{path}: {source.one_line(error)}') from error


def _rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
  reader = csv.DictReader(io.StringIO(text, newline=''))
  for row in reader:
    yield (
      reader.line_num,
      {name: value for name, value in row.items() if name and isinstance(value, str)},
    )
