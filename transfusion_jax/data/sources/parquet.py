"""Parquet files, read by row groups, of which the last few are kept."""

import datetime
import decimal
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from transfusion_jax.data.sources import files, named_images, source

PICTURE = {'bytes', 'path'}
"""The fields of a picture as Hugging Face's data sets store it."""


class Parquet:
  """One record for every row.

  A picture in Hugging Face's layout becomes its bytes; what else is nested is named by
  dotted paths (`flatten`); dates and decimal numbers become text. A row costs its whole
  row group unless that is one of those kept: rows in random order want small groups
  (some hundred rows, or about 10 MB), or as many kept as there are.
  """

  def __init__(
    self,
    path: str,
    columns: tuple[str, ...],
    groups: int,
    pictures: tuple[str, ...] = (),
  ):
    """Reads what stands at the end of every file.

    Args:
      path: of the files; see `files`.
      columns: that are read, dotted paths too; all if none is named.
      groups: row groups that are kept in memory.
      pictures: fields (dotted paths) that may name a picture file from the folder of
        the file that names it, or hold it in base64; a record holds its bytes instead.

    Raises:
      ValueError: pyarrow is missing, there are no such files, one is damaged, lacks a
        column, or there is no row in them.
    """
    if groups < 1:
      raise ValueError(
        f'expected at least 1 row group to keep, found {groups}; raise it'
      )
    self._files = files.find(path, ('.parquet',))
    self._columns, self._pictures = columns, pictures
    self._recent = Recent(groups)
    rows = self._files.map(self._rows_of_groups)
    self._groups = [
      (number, group)
      for number, counts in enumerate(rows)
      for group in range(len(counts))
    ]
    self._ends = list(itertools.accumulate(itertools.chain(*rows)))
    if not self._ends or not self._ends[-1]:
      raise ValueError(
        f'expected at least one row, found none in the {len(self._files)} files at '
        f'{path}; write them again'
      )

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> source.Record:
    group, row = source.locate(index, self._ends)
    with source.named(self, index):
      table = self._recent.get(group, self._read)
      try:
        values = {name: table.column(name)[row].as_py() for name in table.column_names}
      except UnicodeDecodeError as error:
        raise ValueError(
          'expected text in UTF-8, found other bytes; store them as binary'
        ) from error
      record = source.flatten({name: plain(value) for name, value in values.items()})
      for field in self._pictures:
        if field in record:
          number, value = self._groups[group][0], record.pop(field)
          found = named_images.opened(self._files, number, field, value)
          record |= {} if found is None else {field: found}
      return record

  def name(self, index: int) -> str:
    """The path and the numbers of row group and row therein, from 0."""
    part, row = source.locate(index, self._ends)
    number, group = self._groups[part]
    return f'{self._files.path(number)}: row {row} of group {group}'

  def fingerprint(self) -> str:
    content = ['parquet', self._files.listing(), list(self._columns), self._ends[-1]]
    return source.digest(content)

  def summary(self) -> source.Summary:
    return source.Summary(len(self), passed=self._files.passed)

  def _rows_of_groups(self, number: int) -> list[int]:
    pyarrow, parquet = _pyarrow()
    path = self._files.path(number)
    try:
      with self._files.open(number) as stream:
        opened = parquet.ParquetFile(stream)
        columns, metadata = _columns(opened), opened.metadata
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
      raise ValueError(
        f'expected a Parquet file, found {path}: {source.one_line(error)}; fetch or '
        'write it again'
      ) from error
    for column in self._columns:
      _leaves(columns, column, path)
    return [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]

  def _read(self, part: int) -> Any:
    """A row group as a table."""
    pyarrow, parquet = _pyarrow()
    number, group = self._groups[part]
    try:
      with self._files.open(number) as stream:
        opened = parquet.ParquetFile(stream, page_checksum_verification=True)
        columns = _columns(opened) if self._columns else {}
        path = self._files.path(number)
        leaves = [leaf for c in self._columns for leaf in _leaves(columns, c, path)]
        table = opened.read_row_group(group, columns=leaves or None, use_threads=False)
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
      raise ValueError(
        f'expected a sound row group, found {source.one_line(error)}; fetch or write '
        'the file again'
      ) from error
    rows = self._ends[part] - (self._ends[part - 1] if part else 0)
    if table.num_rows != rows:
      raise ValueError(
        f'expected {rows} rows in the group, found {table.num_rows}; fetch or write '
        'the file again'
      )
    return table


class Recent:
  """The last values made, each made once however many threads want it at a time."""

  def __init__(self, capacity: int):
    """Args: capacity: values that are kept."""
    self._capacity, self._lock = capacity, threading.Lock()
    self._held: dict[int, _Entry] = {}

  def get(self, key: int, make: Callable[[int], Any]) -> Any:
    """The value of a key, made if it is not held."""
    with self._lock:
      entry = self._held.pop(key, None) or _Entry()
      self._held[key] = entry  # as the latest
      if len(self._held) > self._capacity:
        del self._held[next(iter(self._held))]
    with entry.lock:
      if not entry.made:
        entry.value, entry.made = make(key), True
      return entry.value

  def __reduce__(self):
    return Recent, (self._capacity,)  # another process makes its own


class _Entry:
  """A value, and who makes it."""

  def __init__(self):
    self.lock, self.made, self.value = threading.Lock(), False, None


def plain(value: Any) -> Any:
  """A value of a row without dates and decimal numbers.

  A picture is its bytes, or else the path that stands beside them.
  """
  if isinstance(value, dict):
    if value.keys() == PICTURE:
      return value['bytes'] or value['path'] or None
    return {name: plain(each) for name, each in value.items()}
  if isinstance(value, list):
    numbers = not value or isinstance(value[0], (int, float))
    return value if numbers else [plain(each) for each in value]
  if isinstance(value, (datetime.date, datetime.time, datetime.timedelta)):
    return str(value)
  if isinstance(value, decimal.Decimal):
    return str(value)
  return value


def _columns(opened: Any) -> dict[str, str]:
  """Name of every stored column in a file, by its dotted path in a record.

  Parquet has columns for what is innermost alone, and names of its own for lists:
  'said.list.element.text' is the field `said.text` of a record. Both are in one order.
  """
  names = [path for field in opened.schema_arrow for path in _paths(field)]
  stored = [opened.metadata.schema.column(n).path for n in range(len(opened.schema))]
  if len(names) != len(stored):  # of a type that is not known here
    return {path: path for path in stored}
  return dict(zip(names, stored, strict=True))


def _paths(field: Any, above: str = '') -> Iterator[str]:
  """Dotted paths of what is innermost in a field."""
  types = _pyarrow()[0]
  path, kind = above + field.name, field.type
  while isinstance(
    kind, (types.ListType, types.LargeListType, types.FixedSizeListType)
  ):
    kind = kind.value_type
  kind = getattr(kind, 'storage_type', kind)
  if isinstance(kind, types.StructType):
    for number in range(kind.num_fields):
      yield from _paths(kind.field(number), f'{path}.')
  elif isinstance(kind, types.MapType):
    yield from (f'{path}.key', f'{path}.value')
  else:
    yield path


def _leaves(columns: dict[str, str], column: str, path: str) -> list[str]:
  """The stored columns of a column, or of a field in it, by its dotted path.

  Raises:
    ValueError: there are none.
  """
  found = [
    leaf
    for name, leaf in columns.items()
    if name == column or name.startswith(f'{column}.')
  ]
  if not found:
    raise ValueError(
      f'expected a column {column!r} in {path}, found {list(columns)}; name one of '
      'these'
    )
  return found


def _pyarrow() -> tuple[Any, Any]:
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise ValueError(
      'expected the package pyarrow, which reads Parquet files, found none; '
      "pip install 'transfusion-jax[data]'"
    ) from error
  return pyarrow.lib, parquet
