"""A folder of pictures with their captions beside them: `name.jpg` and `name.txt`.

Text of a picture `x.png` is taken from the first of these that is there: `x.txt`,
`x.caption`, `x.png.txt`, `x.png.caption`, and the line of `metadata.jsonl` or the row
of `metadata.csv` (Hugging Face's ImageFolder) whose `file_name` names it from there. A
line may have other fields than `text`; they are fields of the record.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from transfusion_jax.data.images import headers
from transfusion_jax.data.sources import files, image_metadata, source

PICTURES = headers.ENDINGS
TEXT = '.txt'
TEXTS = (TEXT, '.caption')
NONE = -1
COMPARED = 64
"""Pictures of several texts whose texts are compared for a summary."""


class Folder:
  """One record for every picture, and for every text without a picture.

  `image`: the bytes of the picture; missing where there is none. `text`: what is said
  of it, without white space around it; empty where there is nothing. `key`: the name of
  both below the folder, without the ending. Pictures that differ in the ending alone
  share their text.
  """

  def __init__(self, path: str):
    """Lists the files of a folder, and of those in it; see `files`.

    Raises:
      ValueError: there are none, or metadata cannot be read.
    """
    self._files = files.find(path, (*PICTURES, *TEXTS, *image_metadata.NAMES))
    names = self._files.names
    kinds = [_kind(name) for name in names]
    stems = [name.rpartition('.')[0] for name in names]
    texts: dict[str, list[int]] = {}  # by stem, what is taken first in front
    for ending, number in itertools.product(TEXTS, reversed(range(len(names)))):
      if kinds[number] == ending:
        texts.setdefault(stems[number], []).append(number)
    pictures = [n for n, kind in enumerate(kinds) if kind == 'picture']
    by_stem, by_name = {stems[n] for n in pictures}, {names[n] for n in pictures}
    self._several: list[tuple[int, ...]] = []
    records = []
    for number, kind in enumerate(kinds):
      stem = stems[number]
      if kind == 'picture':
        found = (*texts.get(stem, ()), *texts.get(names[number], ()))
        records.append((number, found[0] if found else NONE))
        if len(found) > 1:
          self._several.append(found)
      elif kind in TEXTS and stem not in by_stem and stem not in by_name:
        records.append((NONE, number))
    self._records = np.asarray(records).reshape(-1, 2)  # numbers of picture and text
    self._metadata = image_metadata.read(self._files, by_name)
    # Today's folders keep their fingerprints; text found by whole names is new.
    self._whole_names = sorted(texts.keys() & by_name - by_stem)
    if not records:
      raise ValueError(
        f'expected pictures or texts at {path}, found metadata alone; check the path'
      )

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> source.Record:
    picture, text = self._records[index].tolist()
    either = text if picture == NONE else picture
    name = self._files.names[either]
    more = self._metadata.fields.get(name, {}) if picture != NONE else {}
    record = {'text': '', **more, 'key': name.rpartition('.')[0]}
    with source.named(self, index):
      if text != NONE:
        record['text'] = self._text(text)
      if picture != NONE:
        data = self._files.read(picture)
        record['image'] = source.not_empty(data, self._files.path(picture))
    return record

  def name(self, index: int) -> str:
    """The path of the picture, or else of the text."""
    picture, text = self._records[index].tolist()
    return self._files.path(text if picture == NONE else picture)

  def fingerprint(self) -> str:
    content = ['folder', self._files.listing()]
    return source.digest(content + ([self._whole_names] if self._whole_names else []))

  def summary(self) -> source.Summary:
    names, described = self._files.names, self._metadata.fields
    pictures, texts = self._records.T.tolist()
    pairs = sum(
      picture != NONE and (text != NONE or names[picture] in described)
      for picture, text in zip(pictures, texts, strict=True)
    )
    alone = pictures.count(NONE)
    return source.Summary(
      len(self),
      pairs=pairs,
      images=len(self) - pairs - alone,
      texts=alone,
      passed=self._files.passed,
      warnings=(*self._differing(), *self._metadata.warnings),
    )

  def _text(self, number: int) -> str:
    try:
      return source.text(self._files.read(number)).strip()
    except ValueError as error:
      raise ValueError(f'{self._files.path(number)}: {error}') from error

  def _differing(self) -> Iterator[str]:
    """A warning of pictures whose texts say different things."""
    found = []
    for numbers in self._several[:COMPARED]:
      try:
        said = {self._text(number) for number in numbers}
      except (ValueError, OSError):
        continue  # told of when it is read
      if len(said) > 1:
        found.append(numbers)
    if found:
      taken, left = (self._files.names[number] for number in found[0][:2])
      yield (
        f'{len(found)} of the first {min(len(self._several), COMPARED)} pictures with '
        f'several texts have differing ones: {taken} is taken and {left} is not; '
        'remove one of them'
      )


def _kind(name: str) -> str:
  """'picture', the ending of a text, or 'metadata'."""
  if name.lower().endswith(PICTURES):
    return 'picture'
  return next((kind for kind in TEXTS if name.lower().endswith(kind)), 'metadata')
