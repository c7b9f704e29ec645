"""JSON Lines: an object a line, with picture files beside them if there are any."""

import io
import itertools
import json

import numpy as np
from jaxtyping import Int64

from transfusion_jax.data.sources import files, source

SUFFIXES = ('.jsonl', '.ndjson')
BLOCK = 1 << 24
NEWLINE, RETURN = b'\n\r'


class JsonLines:
  """One record for every line; what is nested is named by dotted paths (`flatten`)."""

  def __init__(self, path: str, pictures: tuple[str, ...]):
    """Reads the files through once, to know where every line begins.

    Args:
      path: of the files; see `files`.
      pictures: fields (dotted paths) that name a picture file, or a list of such, from
        the folder of the file that names them; a record holds their bytes instead.

    Raises:
      ValueError: there are no such files, or there is no line in them.
    """
    self._files = files.find(path, SUFFIXES)
    self._pictures = pictures
    lines = self._files.map(self._lines)
    self._starts = [starts for starts, _ in lines]
    self._kept = [kept for _, kept in lines]
    self._ends = list(itertools.accumulate(len(kept) for kept in self._kept))
    if not self._ends[-1]:
      raise ValueError(
        f'expected at least one line, found none in the {len(self._files)} files at '
        f'{path}; write them again'
      )

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> source.Record:
    number, line = self._place(index)
    start, end = self._starts[number][line : line + 2].tolist()
    with source.named(self, index):
      record = parse(self._files.read(number, start, end))
      for field in self._pictures:
        if field in record:
          record[field] = self._opened(number, field, record[field])
    return record

  def name(self, index: int) -> str:
    """The path and the number of the line, from 1."""
    number, line = self._place(index)
    return f'{self._files.path(number)}:{line + 1}'

  def fingerprint(self) -> str:
    return source.digest(['json_lines', self._files.listing(), list(self._pictures)])

  def _place(self, index: int) -> tuple[int, int]:
    """Numbers of file and line."""
    number, within = source.locate(index, self._ends)
    return number, int(self._kept[number][within])

  def _opened(self, number: int, field: str, value: object) -> object:
    """The pictures that a value names."""
    if value is None or isinstance(value, str):
      return value and self._files.read_beside(number, value)
    if isinstance(value, list):
      return [self._opened(number, field, each) for each in value]
    raise ValueError(
      f'expected the name of a picture file in {field!r}, found '
      f'{type(value).__name__}; name the fields that hold such'
    )

  def _lines(
    self, number: int
  ) -> tuple[Int64[np.ndarray, ' bounds'], Int64[np.ndarray, ' kept']]:
    with self._files.open(number) as stream:
      return lines(stream)


def lines(
  stream: io.IOBase,
) -> tuple[Int64[np.ndarray, ' bounds'], Int64[np.ndarray, ' kept']]:
  """Where every line begins (and the last one ends); the numbers of those not empty."""
  bounds, ends = [np.zeros(1, np.int64)], [np.zeros(0, np.int64)]
  size, last = 0, 0
  while block := stream.read(BLOCK):
    content = np.frombuffer(block, np.uint8)
    newlines = np.flatnonzero(content == NEWLINE)
    before = np.where(newlines == 0, last, content[newlines - 1])
    bounds.append(newlines + (size + 1))
    ends.append(np.where(before == RETURN, 2, 1))
    size, last = size + len(block), content[-1]
  bounds, ends = np.concatenate(bounds), np.concatenate(ends)
  if bounds[-1] != size:  # the last line has no end
    bounds, ends = np.append(bounds, size), np.append(ends, 0)
  return bounds, np.flatnonzero(np.diff(bounds) > ends)


def parse(line: bytes) -> source.Record:
  """The object of a line.

  Raises:
    ValueError: the line is no object in JSON.
  """
  try:
    parsed = json.loads(source.text(line))
    if not isinstance(parsed, dict):
      raise ValueError(
        f'expected an object, found {type(parsed).__name__}; write one object a line'
      )
    if b'\\u' in line:  # may name half a character, which no encoding can hold
      json.dumps(parsed, ensure_ascii=False).encode()
    return source.flatten(parsed)
  except json.JSONDecodeError as error:
    raise ValueError(
      f'expected an object in JSON, found a mistake ({error.msg}) at column '
      f'{error.colno}; write one object a line'
    ) from error
  except (RecursionError, UnicodeEncodeError) as error:
    raise ValueError(
      f'expected an object in JSON, found one that cannot be used '
      f'({source.one_line(error)}); write it again'
    ) from error
