"""WebDataset shards: tar files whose members of one name are one record."""

import itertools
import re
import tarfile
from typing import Any

import numpy as np

from transfusion_jax.data.sources import files, folder, json_lines, source

MEMBER = re.compile(r'(?P<key>(?:.*/)?[^./][^./]*)\.(?P<field>[^/]+)')
TEXTS = ('txt', 'text', 'caption')
BLOCK = 512


class WebDataset:
  """One record for every run of members that are called the same up to the first dot.

  `key`: that name. Every member is a field called after its ending, in small letters:
  text (`txt`, `text`, `caption`) as str, `cls` as int, `json` by dotted paths
  (`json.url`), all else as bytes. The first picture is `image` and the first text
  `text`, too. Members without an ending are left out.
  """

  def __init__(self, path: str):
    """Reads the headers of all members.

    Raises:
      ValueError: there are no such files, one is damaged, or no member is in them.
    """
    self._files = files.find(path, ('.tar',))
    shards = self._files.map(self._members)
    self._keys: list[str] = []
    self._fields: dict[str, int] = {}
    places, first, counts = [], [], []
    for members in shards:
      counts.append(0)
      last = None
      for key, field, start, size in members:
        if key != last:
          first.append(len(places))
          self._keys.append(key)
          counts[-1] += 1
        number = self._fields.setdefault(field, len(self._fields))
        places.append((number, start, size))
        last = key
    self._places = np.asarray(places, np.int64).reshape(-1, 3)
    self._first = np.asarray([*first, len(places)], np.int64)
    self._names = tuple(self._fields)
    self._ends = list(itertools.accumulate(counts))
    if not self._keys:
      raise ValueError(
        f'expected members such as name.jpg, found none in the {len(self._files)} '
        f'files at {path}; write them again'
      )

  def __len__(self) -> int:
    return len(self._keys)

  def __getitem__(self, index: int) -> source.Record:
    number, _ = source.locate(index, self._ends)
    places = self._places[self._first[index] : self._first[index + 1]].tolist()
    with source.named(self, index):
      fields = [self._names[field] for field, _, _ in places]
      for field in fields:
        if fields.count(field) > 1:
          raise ValueError(f'expected one member .{field}, found several; remove some')
      begin, end = places[0][1], places[-1][1] + places[-1][2]
      data = self._files.read(number, begin, end)
      members = [
        data[start - begin : start - begin + size] for _, start, size in places
      ]
      return decode(self._keys[index], dict(zip(fields, members, strict=True)))

  def name(self, index: int) -> str:
    """The path of the shard and the key."""
    number, _ = source.locate(index, self._ends)
    return f'{self._files.path(number)}: {self._keys[index]}'

  def fingerprint(self) -> str:
    return source.digest(['web_dataset', self._files.listing(), len(self)])

  def _members(self, number: int) -> list[tuple[str, str, int, int]]:
    """Key, field, offset and size of every member that belongs to a record."""
    path, found = self._files.path(number), []
    try:
      with self._files.open(number) as stream:
        with tarfile.open(fileobj=stream, mode='r:') as opened:
          for member in opened:
            named = MEMBER.fullmatch(member.name)
            if named and member.isreg():
              key, field = named['key'], named['field'].lower()
              found.append((key, field, member.offset_data, member.size))
            opened.members = []  # else it keeps them all
          end = opened.offset
        stream.seek(end)
        if stream.read(BLOCK) != bytes(BLOCK):  # tarfile takes any other end for one
          raise tarfile.ReadError(f'no member and no end of the archive at byte {end}')
    except (OSError, tarfile.TarError) as error:
      raise ValueError(
        f'expected a whole tar file, found {path}: {source.one_line(error)}; fetch or '
        'write it again'
      ) from error
    return found


def decode(key: str, members: dict[str, bytes]) -> source.Record:
  """A record of the members of a name, by their endings.

  Raises:
    ValueError: one of them is not what its ending says.
  """
  values: dict[str, Any] = {'key': key}
  for field, data in members.items():
    kind = field.rpartition('.')[2]
    try:
      value = _decoded(kind, data, f'{key}.{field}')
    except ValueError as error:
      raise ValueError(f'{key}.{field}: {source.one_line(error)}') from error
    values[field] = value
    if f'.{kind}' in folder.PICTURES:
      values.setdefault('image', value)
    elif kind in TEXTS:
      values.setdefault('text', value)
  return source.flatten(values)


def _decoded(kind: str, data: bytes, name: str) -> Any:
  if kind in TEXTS:
    return source.text(data).strip()
  if kind == 'cls':
    number = source.text(data).strip()
    if not re.fullmatch(r'-?\d{1,18}', number):
      raise ValueError(
        f'expected a whole number, found {number[:20]!r}; write the number of a class'
      )
    return int(number)
  if kind == 'json':
    return json_lines.parse(data)
  if f'.{kind}' in folder.PICTURES:
    return source.not_empty(data, name)
  return data
