"""WebDataset shards: tar files whose members of one name are one record."""

import collections
import itertools
import re
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from transfusion_jax.data.sources import files, folder, json_lines, listing, source

MEMBER = re.compile(r'(?P<key>(?:.*/)?[^./][^./]*)\.(?P<field>[^/]+)')
TEXTS = ('txt', 'text', 'caption')
BITS = {'image': 1, 'text': 2, 'json': 4, 'cls': 0}
"""Kinds of fields that a summary names; others are not read as anything."""

BLOCK = 512


class WebDataset:
  """One record for every run of members that are called the same up to the first dot.

  That is the first dot of the base name, as every reader of WebDataset has it.

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
    listed = self._files.map(self._members)
    shards = [members for members, _ in listed]
    self._passed = sum((passed for _, passed in listed), collections.Counter())
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

  def summary(self) -> source.Summary:
    kinds = list(dict.fromkeys(_kind(field) for field in self._names))
    kind_of = np.asarray([kinds.index(_kind(field)) for field in self._names])
    kind = kind_of[self._places[:, 0]]
    bits = np.asarray([BITS.get(each, 0) for each in kinds])[kind]
    held = np.bitwise_or.reduceat(bits, self._first[:-1])
    image, text, unread = (held & BITS[each] > 0 for each in ('image', 'text', 'json'))
    known = {
      'pairs': int((image & text).sum()),
      'images': int((image & ~text).sum()),
      'texts': int((text & ~image).sum()),
    }
    passed = self._passed + collections.Counter(self._files.passed)
    for number, count in enumerate(np.bincount(kind).tolist()):
      if kinds[number] not in BITS:
        passed[f'.{kinds[number]}'] += count
    return source.Summary(
      len(self),
      **({} if (unread & ~text).any() else known),  # a caption may stand in JSON
      passed=passed,
      warnings=tuple(self._again()),
    )

  def _again(self) -> Iterator[str]:
    """Warnings of keys under which an ending returns: their names may have dots."""
    endings = [field.rpartition('.')[2] for field in self._names]
    numbers = {ending: n for n, ending in enumerate(dict.fromkeys(endings))}
    ending_of = np.asarray([numbers[ending] for ending in endings])
    record = np.repeat(np.arange(len(self)), np.diff(self._first))
    codes = record * len(numbers) + ending_of[self._places[:, 0]]
    codes, counts = np.unique(codes, return_counts=True)
    for ending, number in numbers.items():
      places = np.flatnonzero((counts > 1) & (codes % len(numbers) == number))
      if not len(places):
        continue
      worst = places[counts[places].argmax()]
      index, count = int(codes[worst]) // len(numbers), int(counts[worst])
      begin, end = self._first[index : index + 2]
      fields = [self._names[n] for n in self._places[begin:end, 0].tolist()]
      first = next(field for field in fields if field.rpartition('.')[2] == ending)
      others = len(places) - 1
      more = f' (and {others:,} more)' if others else ''
      yield (
        f'the ending .{ending} returns {count - 1:,} times under the key '
        f'{self._keys[index]!r}{more}: a key ends at the first dot of the base name, '
        f'so that these {count:,} members are one record; write names without further '
        f'dots, or name the member that is meant in form, such as {first!r}'
      )

  def _members(
    self, number: int
  ) -> tuple[list[tuple[str, str, int, int]], collections.Counter]:
    """Members that belong to a record, and others (not hidden ones) by ending.

    Of the first key, field, offset and size.
    """
    path, found = self._files.path(number), []
    passed = collections.Counter()
    try:
      with self._files.open(number) as stream:
        with tarfile.open(fileobj=stream, mode='r:') as opened:
          for member in opened:
            named = MEMBER.fullmatch(member.name)
            if named and member.isreg():
              key, field = named['key'], named['field'].lower()
              found.append((key, field, member.offset_data, member.size))
            elif not member.isdir() and not listing.hidden(member.name):
              passed[listing.ending(member.name)] += 1
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
    return found, passed


def _kind(field: str) -> str:
  """Kind of a field: an image, text, or its ending."""
  ending = field.rpartition('.')[2]
  if f'.{ending}' in folder.PICTURES:
    return 'image'
  return 'text' if ending in TEXTS else ending


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
