"""A source written again with moments of latents in place of its pictures.

File k of F holds the records k N / F up to (k + 1) N / F, in their order, so that files
can be made anywhere, in any order, and once more where one was not finished.

read and decoded in threads -> encoded on a device -> written; each is a group of
records ahead of the next.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float16, UInt8

from transfusion_jax.data import corpus, forms, mixture
from transfusion_jax.data.images import image_files
from transfusion_jax.data.sources import array_record, source

T = TypeVar('T')


class Group(NamedTuple):
  """Some consecutive records.

  Attributes:
    count: of the records, the broken ones too.
    kept: number and content of those that are whole.
    moments: of all their pictures, in batches, the last one filled up.
  """

  count: int
  kept: list[tuple[int, source.Record]]
  moments: list[Any]


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Writes files of encoded records.

  Attributes:
    name: of the source.
    records: of the source.
    fields: that hold pictures, or lists of them.
    pictures: their size in a document.
    encode: from a batch of pictures to arrays of moments, float16 [b, y, x, 2 c], which
      need not be there yet.
    batch: pictures that are encoded at once.
    broken: share of a file's records that may be broken, and are left out.
    pool: reads and decodes.
  """

  name: str
  records: source.Source
  fields: Sequence[str]
  pictures: image_files.ImagesConfig
  encode: Callable[[UInt8[np.ndarray, 'b h w 3']], Any]
  batch: int
  broken: float
  pool: futures.Executor

  def try_out(self) -> None:
    """Encodes a batch of nothing, so that whatever can be compiled now is.

    Raises:
      ValueError: the autoencoder does not take pictures of this size.
    """
    _arrays(self.encode(self._blank()))

  def check(self) -> None:
    """Looks through some records, evenly spread, for an image.

    Raises:
      ValueError: none of them holds one.
    """
    numbers = corpus.spread(len(self.records), corpus.SAMPLE)
    reason: Any = f'nothing in the fields {sorted({*self.fields})}'
    for index in numbers:
      try:
        if _held(self.records[index], self.fields):
          return
      except ValueError as error:
        reason = error
    raise ValueError(
      f'expected images in data.sources.{self.name}, found none in {len(numbers)} of '
      f'its records, the last: {reason}; name other fields in `form`, or another source'
    )

  def write(
    self, prefix: str, number: int, files: int, tell: Callable[[int], object]
  ) -> int:
    """Writes one file of a set, and returns how many pictures are in it.

    Args:
      prefix: path of the set.
      number: of the file.
      files: of the set.
      tell: is told how many records have been dealt with, again and again.

    Raises:
      ValueError: too many records are broken, one cannot be stored, or latents are not
        finite.
    """
    array_record.sweep(prefix, number, files)
    written = 0
    with array_record.Writer(prefix, number, files) as writer:
      for group in _ahead(self._groups(span(len(self.records), number, files)), 1):
        moments = iter([each for part in group.moments for each in _arrays(part)])
        for index, record in group.kept:
          written += len(_held(record, self.fields))
          with source.named(self.records, index):
            writer.write(_replaced(record, self.fields, moments))
        tell(group.count)
    return written

  def _groups(self, numbers: range) -> Iterator[Group]:
    done = broken = 0
    for begun in _ahead(self._begin(numbers), 2):
      kept, shown = [], []
      for index, future in begun:
        done += 1
        try:
          record, pictures = future.result()
        except ValueError as error:
          broken += 1
          mixture.skip_broken(self.name, error, broken, of=done, allowed=self.broken)
          continue
        kept.append((index, record))
        shown += pictures
      yield Group(len(begun), kept, self._moments(shown))

  def _begin(self, numbers: range) -> Iterator[list[tuple[int, futures.Future]]]:
    for start in range(0, len(numbers), self.batch):
      group = numbers[start : start + self.batch]
      yield [(index, self.pool.submit(self._read, index)) for index in group]

  def _read(self, index: int) -> tuple[source.Record, list[UInt8[np.ndarray, 'h w 3']]]:
    record = self.records[index]
    with source.named(self.records, index):
      data = [forms.picture_bytes(p, self.fields) for p in _held(record, self.fields)]
      return record, [image_files.decode(each, self.pictures, None) for each in data]

  def _moments(self, pictures: list[UInt8[np.ndarray, 'h w 3']]) -> list[Any]:
    made = []
    for start in range(0, len(pictures), self.batch):
      part = pictures[start : start + self.batch]
      whole = self._blank()
      whole[: len(part)] = part
      made.append(self.encode(whole))
    return made

  def _blank(self) -> UInt8[np.ndarray, 'b h w 3']:
    return np.zeros(
      (self.batch, self.pictures.height, self.pictures.width, 3), np.uint8
    )


def span(records: int, number: int, files: int) -> range:
  """The records that one of several files holds."""
  return range(number * records // files, (number + 1) * records // files)


def _ahead(items: Iterator[T], count: int) -> Iterator[T]:
  """The same items, each handed out when `count` more have been begun."""
  begun: collections.deque[T] = collections.deque()
  for item in items:
    begun.append(item)
    if len(begun) > count:
      yield begun.popleft()
  yield from begun


def _held(record: source.Record, fields: Sequence[str]) -> list[Any]:
  """The pictures of a record, in the order in which `_replaced` takes latents."""
  values = [each for field in fields for each in forms.listed(record.get(field))]
  return [each for each in values if forms.given(each)]


def _replaced(
  record: source.Record, fields: Sequence[str], moments: Iterator[np.ndarray]
) -> source.Record:
  """The record with the next moments where it holds pictures."""
  values = {field: record[field] for field in fields if field in record}
  for field, value in values.items():
    made = [next(moments) if forms.given(p) else p for p in forms.listed(value)]
    values[field] = made if isinstance(value, list) else made[0] if made else None
  return record | values


def _arrays(part: Any) -> Float16[np.ndarray, 'b y x m']:
  """Moments that were on a device.

  Raises:
    ValueError: they are beyond what is stored.
  """
  moments = np.asarray(part)
  if not np.isfinite(moments).all():
    raise ValueError(
      'expected latents within 65,504, found larger ones or none; train the '
      'autoencoder again'
    )
  return moments
