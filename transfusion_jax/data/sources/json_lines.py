"""JSON Lines: an object a line, with picture files beside them if there are any.

Where there are no such files, `.json` files are read: a list of objects, or an object a
line all the same.
"""

import io
import itertools
import json

import numpy as np
from jaxtyping import Int64

from transfusion_jax.core import json_text
from transfusion_jax.data.sources import files, named_images, source

SUFFIXES = ('.jsonl', '.ndjson')
LIST = '.json'
BLOCK = 1 << 24
NEWLINE = b'\n'[0]
MARK = b'\xef\xbb\xbf'
DARK = np.ones(256, bool)
DARK[list(b' \t\n\r\x0b\x0c')] = False
"""Bytes that are no white space."""


class JsonLines:
  """One record for every line; what is nested is named by dotted paths (`flatten`).

  Lines of white space alone are none.
  """

  def __init__(self, path: str, pictures: tuple[str, ...]):
    """Reads the files through once, to know where every line begins.

    Args:
      path: of the files; see `files`.
      pictures: fields (dotted paths) that name a picture file, or a list of such, from
        the folder of the file that names them, or hold it in base64; a record holds
        their bytes instead.

    Raises:
      ValueError: there are no such files, or there is no line in them.
    """
    self._files = files.find(path, SUFFIXES, (LIST,))
    self._pictures = pictures
    lines = self._files.map(self._lines)
    self._starts = [starts for starts, _, _ in lines]
    self._kept = [kept for _, kept, _ in lines]
    self._is_list = [is_list for _, _, is_list in lines]
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
          found = named_images.opened(self._files, number, field, record.pop(field))
          record |= {} if found is None else {field: found}
    return record

  def name(self, index: int) -> str:
    """The path and the number of the line, from 1; of a list [its number, from 0]."""
    number, line = self._place(index)
    path = self._files.path(number)
    return f'{path}[{line // 2}]' if self._is_list[number] else f'{path}:{line + 1}'

  def fingerprint(self) -> str:
    return source.digest(['json_lines', self._files.listing(), list(self._pictures)])

  def summary(self) -> source.Summary:
    return source.Summary(len(self), passed=self._files.passed)

  def _place(self, index: int) -> tuple[int, int]:
    """Numbers of file and line."""
    number, within = source.locate(index, self._ends)
    return number, int(self._kept[number][within])

  def _lines(
    self, number: int
  ) -> tuple[Int64[np.ndarray, ' bounds'], Int64[np.ndarray, ' kept'], bool]:
    """Bounds of lines, which of them are records, and whether it is a list of them."""
    if self._files.names[number].lower().endswith(LIST):
      return _lines_or_list(self._files.read(number), self._files.path(number))
    with self._files.open(number) as stream:
      return *lines(stream), False


def _lines_or_list(
  data: bytes, path: str
) -> tuple[Int64[np.ndarray, ' bounds'], Int64[np.ndarray, ' kept'], bool]:
  """Bounds as above; of a list, begin and end of every element in turn."""
  try:
    if data.removeprefix(MARK).lstrip()[:1] == b'[':
      places = [each for pair in json_text.elements(data) for each in pair]
      return np.asarray(places, np.int64), np.arange(0, len(places), 2), True
    bounds, kept = lines(io.BytesIO(data))
    if len(kept):
      parse(data[bounds[kept[0]] : bounds[kept[0] + 1]])
  except ValueError as error:
    raise ValueError(
      f'{path}: expected a list of objects, or an object a line, found neither '
      f'({source.one_line(error)}); write it as [{{...}}, {{...}}]'
    ) from error
  return bounds, kept, False


def lines(
  stream: io.IOBase,
) -> tuple[Int64[np.ndarray, ' bounds'], Int64[np.ndarray, ' kept']]:
  """Offsets of the lines that are not blank (and the end of the last one)."""
  bounds, filled = [np.zeros(1, np.int64)], [np.zeros(0, bool)]
  size, begun = 0, False  # bytes so far; whether the last line holds anything
  while block := stream.read(BLOCK):
    content = np.frombuffer(block, np.uint8)
    newlines = np.flatnonzero(content == NEWLINE)
    starts = np.concatenate([[0], newlines + 1])
    starts[0] = len(MARK) if not size and block.startswith(MARK) else 0
    ends = np.append(newlines, len(content))
    # As a rule the first byte tells, and reading all of them would take twice as long.
    found = (starts < ends) & DARK[content[np.minimum(starts, len(content) - 1)]]
    for line in np.flatnonzero(~found & (starts < ends)).tolist():
      found[line] = bool(block[starts[line] : ends[line]].strip())
    found[0] |= begun
    begun = bool(found[-1])
    bounds.append(newlines + (size + 1))
    filled.append(found[:-1])
    size += len(block)
  bounds, filled = np.concatenate(bounds), np.concatenate(filled)
  if bounds[-1] != size:  # the last line has no end
    bounds, filled = np.append(bounds, size), np.append(filled, begun)
  return bounds, np.flatnonzero(filled)


def parse(line: bytes) -> source.Record:
  """The object of a line.

  Raises:
    ValueError: the line is no object in JSON.
  """
  parsed = json_text.parse_object(source.text(line).rstrip())
  if b'\\u' in line:  # may name half a character, which no encoding can hold
    try:
      json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
      raise ValueError(
        f'expected an object in JSON, found one that cannot be used '
        f'({source.one_line(error)}); write it again'
      ) from error
  return source.flatten(parsed)
