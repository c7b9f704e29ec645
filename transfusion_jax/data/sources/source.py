"""Protocol of a corpus: records by number.

A record is a flat dict of plain values: str, int, float, bool, bytes for encoded files,
uint8 arrays for decoded pictures, lists of such. What is nested in the corpus is named
by dotted paths (`flatten`), whatever format it came in.
"""

import bisect
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

Record = dict[str, Any]
LONGEST_REASON = 300


@dataclasses.dataclass(frozen=True)
class Summary:
  """Contents of a source, as far as they are known without reading all of it.

  Attributes:
    records: all of them.
    pairs: records with image and text; None: not known, as are the next two.
    images: records with an image alone.
    texts: records with text alone.
    passed: files that are in no record, counted by ending; folders of runs as well.
    warnings: what may not be as it was meant, each on one line.
  """

  records: int
  pairs: int | None = None
  images: int | None = None
  texts: int | None = None
  passed: Mapping[str, int] = dataclasses.field(default_factory=dict)
  warnings: tuple[str, ...] = ()

  def line(self) -> str:
    """All of it but the warnings: '24 pairs, 3 images alone; passed over: 20 .xyz'."""
    counts = {
      'pair': self.pairs,
      'image alone': self.images,
      'text alone': self.texts,
    }
    parts = [_counted(count, what) for what, count in counts.items() if count]
    line = ', '.join(parts) or _counted(self.records, 'record')
    passed = sorted(self.passed.items(), key=lambda item: (-item[1], item[0]))
    if passed:
      line += '; passed over: ' + ', '.join(f'{n:,} {ending}' for ending, n in passed)
    return line


@runtime_checkable
class Source(Protocol):
  """Random access to a corpus, from any thread.

  A record is the same whenever and wherever it is read. A broken one raises ValueError
  when it is read; a corpus that cannot be read at all, when it is opened.
  """

  def __len__(self) -> int:
    """The number of records."""

  def __getitem__(self, index: int) -> Record:
    """The record of that number.

    Raises:
      ValueError: it is broken; the message begins with its name.
      IndexError: there is none of that number.
    """

  def name(self, index: int) -> str:
    """Name of the record, for messages."""

  def fingerprint(self) -> str:
    """Hex digits that change if the corpus does, found without reading all of it."""

  def summary(self) -> Summary:
    """Summary of the contents, for users to compare with what they meant."""


def _counted(count: int, what: str) -> str:
  noun, _, rest = what.partition(' ')
  return f'{count:,} {noun}{"s" * (count != 1)} {rest}'.strip()


def digest(content: Any) -> str:
  """16 hex digits of anything that JSON can hold."""
  text = json.dumps(content, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def locate(index: int, ends: Sequence[int]) -> tuple[int, int]:
  """Part that holds a record, and the number of the record in it.

  Args:
    index: of the record.
    ends: for every part, how many records it and those before it hold.

  Raises:
    IndexError: no part holds it.
  """
  index = range(int(ends[-1]) if len(ends) else 0)[index]
  part = bisect.bisect_right(ends, index)
  return part, index - (int(ends[part - 1]) if part else 0)


@contextlib.contextmanager
def named(of: Source, index: int) -> Iterator[None]:
  """Puts the name of a record before what is wrong with it, all on one line."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f'{of.name(index)}: {one_line(error)}') from error


def one_line(error: BaseException) -> str:
  """Message of an exception, fit for a log."""
  return ' '.join(str(error).split())[:LONGEST_REASON] or type(error).__name__


def text(data: bytes) -> str:
  """Text as UTF-8, without a byte order mark, lines ending in a line feed alone.

  Raises:
    ValueError: it is no such text.
  """
  try:
    decoded = data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise ValueError(
      f'expected text in UTF-8, found byte 0x{data[error.start]:02x} at '
      f'{error.start}; save it as UTF-8'
    ) from error
  if '\0' in decoded:
    raise ValueError(
      'expected text in UTF-8, found a NUL character; it may be UTF-16 or no text: '
      'save it as UTF-8'
    )
  return decoded.replace('\r\n', '\n')


def not_empty(data: bytes, file: str) -> bytes:
  """The bytes of a picture file.

  Raises:
    ValueError: there are none.
  """
  if not data:
    raise ValueError(
      f'expected a picture, found {file} empty; fetch it again, or remove it'
    )
  return data


def flatten(nested: Mapping[str, Any]) -> Record:
  """Dotted paths instead of what is nested.

  An object's fields are named after it: `{'a': {'b': 1}}` becomes `{'a.b': 1}`. A list
  of objects becomes one list for every field, each as long as the first, with None
  where an object lacks the field: `{'c': [{'d': 1}, {'e': 2}]}` becomes
  `{'c.d': [1, None], 'c.e': [None, 2]}`. A field without a value is left out.

  Raises:
    ValueError: two values have one path, or a list holds objects and other values.
  """
  record: Record = {}
  for name, value in nested.items():
    for path, plain in _paths(name, value):
      if path in record:
        raise ValueError(f'expected every path once, found {path!r} twice; rename one')
      record[path] = plain
  return record


def _paths(name: str, value: Any) -> Iterator[tuple[str, Any]]:
  """The paths and plain values of one field."""
  if value is None:
    return
  if isinstance(value, Mapping):
    for inner, each in value.items():
      yield from _paths(f'{name}.{inner}', each)
  elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
    if not all(each is None or isinstance(each, Mapping) for each in value):
      raise ValueError(
        f'expected objects alone or none in the list {name!r}, found both; '
        'write all as objects'
      )
    rows = [flatten(each or {}) for each in value]
    for path in dict.fromkeys(path for row in rows for path in row):
      yield f'{name}.{path}', [row.get(path) for row in rows]
  else:
    yield name, value
