"""What a user can mend in the data of a run, found before anything is made of it."""

from transfusion_jax.data import corpus, emoji_tasks, layout, pipeline

TRIED = 8
"""Documents of a source that are made before a run begins."""


def check(config: pipeline.DataConfig, patches: int) -> None:
  """Opens every source and makes some of its documents.

  Raises:
    ValueError: a source cannot be opened, none of its documents can be made, or a
      picture or the longest scene does not fit into a row.
  """
  plan = layout.Layout(pipeline.tokenizer(config), patches=patches)
  _check_rows(config, plan)
  for name, opened in pipeline.collections(config, 'train').items():
    endless = corpus.Endless(opened, name=name, seed=0)
    try:
      opened.check()
      _check_documents(config, plan, endless)
    except ValueError as error:
      raise ValueError(f'data.sources.{name}: {error}') from error


def check_pictures(config: pipeline.DataConfig) -> None:
  """Opens every source that has pictures, for training and for measuring.

  Raises:
    ValueError: there is none, one cannot be opened, or none is held out.
  """
  for split in ('train', 'test'):
    opened = pipeline.collections(pipeline.with_pictures(config), split)
    if not any(len(each) for each in opened.values()):
      raise ValueError(
        f'expected pictures for the split {split!r}, found none in data.sources; give '
        'a source of pictures, and heldout=0.01 to measure on some of them'
      )


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


def _check_documents(
  config: pipeline.DataConfig, plan: layout.Layout, endless: corpus.Endless
) -> None:
  """Raises what is wrong with some documents if it is wrong with all of them."""
  for index in range(TRIED):
    try:
      pipeline.cut(config, plan.document(endless[index]))
      return
    except ValueError as error:
      wrong = error
  raise wrong
