"""Checks of the data of a run, made before anything is trained."""

import functools
from collections.abc import Callable
from typing import Any

from transfusion_jax.core import log
from transfusion_jax.data import corpus, documents, epochs, pipeline
from transfusion_jax.data.emoji import tasks as emoji_tasks
from transfusion_jax.data.rows import layout

TRIED = 8
"""Broken documents of a source after which no sound one is looked for."""

LOOKED = 1000
"""Documents of a source among which one is looked for that a stage has a use for."""


def check(config: pipeline.DataConfig, patches: int) -> None:
  """Opens every source and makes some of its documents.

  Raises:
    ValueError: a source cannot be opened, none of its documents can be made, or a
      picture or the longest scene does not fit into a row.
  """
  plan = layout.Layout(pipeline.tokenizer(config), patches=patches)
  _check_rows(config, plan)
  _check_documents(
    _with_fields(pipeline.collections(config, 'train')),
    lambda document: pipeline.laid_out(config, plan, document),
    'raise data.image_slots, or leave the source out of data.sources',
  )


def check_pictures(config: pipeline.DataConfig) -> None:
  """Opens every source that has pictures, for training and for measuring.

  Raises:
    ValueError: there is none, one cannot be opened, or none is held out.
  """
  config = pipeline.with_pictures(config)
  train, test = (pipeline.collections(config, split) for split in ('train', 'test'))
  take = lambda document: pipeline.one_picture(document, 0)  # noqa: E731
  _check_documents(
    _with_fields(train),
    take,
    "set its form.kind='text', or leave it out of data.sources",
  )
  held_out = {name: opened for name, opened in test.items() if len(opened)}
  if not held_out:
    raise ValueError(
      "expected pictures for the split 'test', found none in data.sources; give a "
      'source of pictures, and heldout=0.01 to measure on some of them'
    )
  _check_documents(
    held_out,
    take,
    'raise its heldout (every 1/heldout-th record, from the first, is held out to '
    'measure on), for example to 0.1',
  )


def announce(config: pipeline.DataConfig) -> None:
  """Tells in the log what every source holds, once in a process.

  Raises:
    ValueError: a source cannot be opened.
  """
  for name, opened in pipeline.collections(config, 'train').items():
    if (held := opened.summary()) is not None:
      _tell(f'data.sources.{name}', held.line(), tuple(held.warnings))


@functools.cache
def _tell(name: str, line: str, warnings: tuple[str, ...]) -> None:
  log.info(f'{name}: {line}')
  for each in warnings:
    log.warning(f'{name}: {each}')


def _check_rows(config: pipeline.DataConfig, plan: layout.Layout) -> None:
  longest = [(min(1, config.image_slots), 0)]
  if forms := pipeline.scene_forms(config):
    _check_size(config)
    measure = lambda text: len(plan.tokenizer.encode(text))  # noqa: E731
    longest = emoji_tasks.longest_documents(config.scenes, forms, measure)
  length = max(plan.length(words, count) for count, words in longest)
  count = max(count for count, _ in longest)
  if length > config.row_length or count > config.image_slots:
    raise ValueError(
      f'expected rows for the longest document, {length} positions and {count} '
      f'images, found row_length={config.row_length} and image_slots='
      f'{config.image_slots}; raise them, or shorten stories with scenes.frames'
    )


def _check_size(config: pipeline.DataConfig) -> None:
  height, width, _ = pipeline.pixels(config)
  side = config.scenes.size
  if not height == width == side:
    raise ValueError(
      f'expected pictures of the size of the scenes, {side}, found {height} x '
      f'{width}; set data.images or data.scenes.size'
    )


def _with_fields(
  sources: dict[str, corpus.Collection],
) -> dict[str, corpus.Collection]:
  """The same, once each was found to be what was meant."""
  for name, opened in sources.items():
    with documents.named(lambda name=name: f'data.sources.{name}'):
      opened.check()
  return sources


def _check_documents(
  sources: dict[str, corpus.Collection],
  make: Callable[[documents.Document], Any],
  way_out: str,
) -> None:
  """Checks that something can be made of a document of every source.

  Args:
    sources: by name.
    make: raises what is wrong with a document, or with all of them.
    way_out: where documents are sound, and none is for this stage.

  Raises:
    ValueError: a source has no documents, only broken ones, or none for this stage.
  """
  for name, opened in sources.items():
    with documents.named(lambda name=name: f'data.sources.{name}'):
      _check_some(epochs.Endless(opened, name=name, seed=0), make, way_out)


def _check_some(endless: epochs.Endless, make, way_out: str) -> None:
  looked = min(LOOKED, len(endless))
  unsuited, broken = [], []
  for index in range(looked):
    try:
      endless.made(index, make)
      return
    except documents.Unsuited as error:
      unsuited.append(error)
    except ValueError as error:
      broken.append(error)
    if len(broken) == TRIED:
      break
  if len(broken) == TRIED or not unsuited:
    raise broken[-1]
  raise ValueError(
    f'expected documents for this stage, found none among {looked}, the last: '
    f'{unsuited[-1]}; {way_out}'
  ) from unsuited[-1]
