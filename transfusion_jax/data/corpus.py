"""The documents of one source, by index: from its config to what a mixture takes.

  files -> records (`sources`) -> documents (`forms`) -> parts that fit into rows

A share of the records, evenly spread, can be held out of training; it makes up the
split 'test'.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from transfusion_jax.core import paths
from transfusion_jax.data import documents, forms, mixture
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.emoji import tasks as emoji_tasks
from transfusion_jax.data.images import image_files
from transfusion_jax.data.sources import (
  array_record,
  folder,
  json_lines,
  parquet,
  source,
  web_dataset,
)

SAMPLE = 300
"""Records in which a field is looked for before a run begins."""

LEAST_HELDOUT = 1e-9
"""The smallest share that can be held out: one of as many as Grain can shuffle."""

GROUPS = 16
"""Row groups of Parquet files that are kept in memory."""

MOST = 2**31 - 1
"""Documents of a source: the most that Grain can shuffle."""


@dataclasses.dataclass(frozen=True)
class SourceConfig:
  """A source of documents, and its part in the mixture.

  Attributes:
    kind: 'emoji_scenes' draws the scenes of `data.scenes`; 'stored_emoji_scenes' reads
      them from where `tfds_emoji_scenes` has written them. The others read records:
      'folder' pictures with text files beside them, 'json_lines', 'parquet',
      'web_dataset', 'array_record' files, 'tfds' a data set by name.
    path: folder, file, pattern or URL; of 'tfds' the name; empty for 'emoji_scenes'.
    split: of a data set that comes in splits; empty elsewhere.
    directory: of 'tfds', where data sets are kept (empty: TFDS's own place); of
      'array_record' files that lie elsewhere, for copies of them.
    heldout: share of the records that training leaves out.
    form: how records become documents; of scenes, its kind alone is of account:
      'captioned', or 'question' or 'edit' for tasks made of them.
    weights: share of the mixture, in positions, against the other sources; one for
      every element of `since`.
    since: steps from which the weights hold; the first is 0.
    epochs: how often training goes through the source; 0: without end.
  """

  kind: Literal[
    'emoji_scenes',
    'stored_emoji_scenes',
    'folder',
    'json_lines',
    'parquet',
    'web_dataset',
    'array_record',
    'tfds',
  ]
  path: str
  split: str
  directory: str
  heldout: float
  form: forms.FormConfig
  weights: tuple[float, ...]
  since: tuple[int, ...]
  epochs: int

  def __post_init__(self):
    if bool(self.path) == (self.kind == 'emoji_scenes'):
      raise ValueError(
        f'expected a path for every kind but emoji_scenes, found kind={self.kind!r} '
        f'and path={self.path!r}; set or empty the path'
      )
    if self.scenes and self.form.kind not in emoji_tasks.FORMS:
      raise ValueError(
        f'expected a form among {emoji_tasks.FORMS} for {self.kind}, found '
        f'{self.form.kind!r}; use one'
      )
    _ = self.schedule  # which is checked
    held = self.heldout == 0 or LEAST_HELDOUT <= self.heldout <= 0.5
    if not held or self.epochs < 0:
      raise ValueError(
        f'expected heldout from 0 to 0.5 and epochs >= 0, found {self.heldout} and '
        f'{self.epochs}; change them'
      )
    places = ('directory',) if self.kind == 'tfds' else ('path', 'directory')
    for name in places:  # absolute, as they are to be found from other folders too
      object.__setattr__(self, name, paths.anywhere(getattr(self, name), name))

  @property
  def scenes(self) -> bool:
    """True if these are emoji scenes, drawn or stored."""
    return self.kind in ('emoji_scenes', 'stored_emoji_scenes')

  @property
  def schedule(self) -> mixture.Schedule:
    """Share of the mixture."""
    return mixture.Schedule(self.weights, self.since)


@runtime_checkable
class Collection(Protocol):
  """Documents in the order of their source."""

  def __len__(self) -> int: ...

  def document(self, index: int, rng: np.random.Generator) -> documents.Document:
    """One of them, what is left to chance drawn from `rng`; a ValueError names it."""

  def captioned(self, index: int) -> documents.Captioned:
    """The first picture of one, and all that is said of it; a ValueError names it."""

  def name(self, index: int) -> str:
    """Name of one document, for messages."""

  def fingerprint(self) -> str:
    """Fingerprint of the contents, to notice when they have changed."""

  def summary(self) -> source.Summary | None:
    """Summary of the contents for users; None if the config says it all."""

  def check(self) -> None:
    """Raises ValueError if it cannot be what was meant."""


class Scenes:
  """Emoji scenes, or tasks about them, which leave nothing to chance."""

  def __init__(
    self, scenes: emoji_scenes.Source | emoji_tasks.Questions | emoji_tasks.Edits
  ):
    self._scenes = scenes

  @property
  def tasks(self) -> bool:
    """True if these are tasks, and not the scenes themselves."""
    return isinstance(self._scenes, emoji_tasks.Questions | emoji_tasks.Edits)

  def __len__(self) -> int:
    return len(self._scenes)

  def document(self, index: int, rng: np.random.Generator) -> documents.Document:
    del rng
    return self._scenes[index].document()

  def captioned(self, index: int) -> documents.Captioned:
    shown = self._scenes[index].pictures[0]
    return documents.Captioned(shown.pixels, (shown.caption,))

  def name(self, index: int) -> str:
    return f'scene {index}'

  def fingerprint(self) -> str:
    """Number of scenes or tasks, whose contents are in the config."""
    return f'{len(self)} scenes'

  def summary(self) -> None:
    """Nothing but what stands in the config."""

  def check(self) -> None:
    """Nothing can be wrong with them."""


class Records:
  """Documents made of a source's records, every `stride`th of them held out."""

  def __init__(self, records: source.Source, form: forms.Form, *, stride: int, split):
    """Args: records, form; stride: 0 holds nothing out; split: 'train' or 'test'."""
    self._records, self._form = records, form
    self._stride, self._split = stride, split

  def __len__(self) -> int:
    held = -(-len(self._records) // self._stride) if self._stride else 0
    return held if self._split == 'test' else len(self._records) - held

  def document(self, index: int, rng: np.random.Generator) -> documents.Document:
    with documents.named(lambda: self.name(index)):
      return self._form.document(self._records[self._place(index)], rng)

  def captioned(self, index: int) -> documents.Captioned:
    with documents.named(lambda: self.name(index)):
      return self._form.captioned(self._records[self._place(index)])

  def name(self, index: int) -> str:
    return self._records.name(self._place(index))

  def fingerprint(self) -> str:
    return self._records.fingerprint()

  def summary(self) -> source.Summary:
    return self._records.summary()

  def check(self) -> None:
    """Looks through some records, evenly spread, for the fields of documents.

    Raises:
      ValueError: there is no record, or a field is in none of them.
    """
    if not len(self):
      raise ValueError(
        f'expected records for the split {self._split!r}, found none of the '
        f'{len(self._records)}, as every {self._stride}th from the first is held out; '
        'set heldout=0, or add records'
      )
    found: set[str] = set()
    unread: ValueError | None = None
    for index in spread(len(self), SAMPLE):
      try:
        found |= self._records[self._place(index)].keys()
      except ValueError as error:
        unread = error
      if found.issuperset(self._form.fields):
        return
    missing = [field for field in self._form.fields if field not in found]
    if found:  # else each of them is broken, which is told with the documents
      told = f'; of those that cannot be read one is {unread}' if unread else ''
      raise ValueError(
        f'expected the field {missing[0]!r} in some of the records, found '
        f'{", ".join(sorted(found))} ({self.summary().line()}); name the fields in '
        f'`form`, or take another form{told}'
      )

  def _place(self, index: int) -> int:
    if not self._stride:
      return index
    if self._split == 'test':
      return index * self._stride
    return index + index // (self._stride - 1) + 1


def spread(count: int, most: int) -> list[int]:
  """Up to `most` of the numbers below `count`, evenly spread and in mixed order."""
  numbers = np.linspace(0, count - 1, min(count, most)).astype(np.int64)
  return np.random.default_rng(0).permutation(numbers).tolist()


def open_collection(
  config: SourceConfig,
  split: str,
  *,
  scenes: emoji_scenes.EmojiScenesConfig,
  pictures: image_files.ImagesConfig | None,
) -> Collection:
  """Opens a source.

  Args:
    config: the source.
    split: 'train' or 'test'.
    scenes: which emoji scenes, where it is those.
    pictures: size of pictures in documents; None: moments of latents are stored.

  Raises:
    ValueError: there is no such source, or it is of another kind.
  """
  if config.scenes:
    opened = _open_scenes(config, split, scenes)
    return Scenes(emoji_tasks.make(config.form.kind, scenes, split, opened))
  stride = round(1 / config.heldout) if config.heldout else 0
  form = forms.Form(config.form, pictures)
  return Records(open_records(config), form, stride=stride, split=split)


def _open_scenes(config: SourceConfig, split: str, scenes) -> emoji_scenes.Source:
  if config.kind == 'emoji_scenes':
    return emoji_scenes.EmojiScenes(scenes, split)
  # Here, because TFDS takes a second to import.
  from transfusion_jax.data.emoji import tfds_builder

  return tfds_builder.StoredEmojiScenes(config.path, split)


@functools.lru_cache(maxsize=32)
def open_records(config: SourceConfig) -> source.Source:
  """The records of a source, opened once in a process: that may read all of them.

  Raises:
    ValueError: there is no such source, or it has scenes instead of records.
  """
  path, form = config.path, config.form
  opened: dict[str, Callable[[], source.Source]] = {
    'folder': lambda: folder.Folder(path),
    'json_lines': lambda: json_lines.JsonLines(path, form.pictures),
    'parquet': lambda: parquet.Parquet(path, form.fields, GROUPS, form.pictures),
    'web_dataset': lambda: web_dataset.WebDataset(path),
    'array_record': lambda: array_record.ArrayRecord(path, config.directory),
    'tfds': lambda: _tfds(config),
  }
  if config.kind not in opened:
    raise ValueError(
      f'expected a source of records, {", ".join(opened)}, found {config.kind!r}; name '
      'another source'
    )
  return opened[config.kind]()


def _tfds(config: SourceConfig) -> source.Source:
  # Here, because TFDS takes a second to import.
  from transfusion_jax.data.sources import tfds

  return tfds.Tfds(config.path, config.split, config.directory)
