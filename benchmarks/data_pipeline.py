"""Speed of the data pipeline, and how full its rows are.

  pip install -e '.[text]'
  python -m benchmarks.data_pipeline --json=data_pipeline.json

Rows of 4,096 positions in eight shards, as in the configs of the paper's models: images
of 256 pixels take 256 positions; text is tokenized with 32,000 pieces. First three
sources alone (JPEG files with captions, moments of latents with captions, text), per
CPU second of the process: the speed of one core. Then a mixture, by positions: half of
it text of 10 to 2,000 tokens, a quarter articles with up to 8 images, a quarter images
with captions. The second table shows how full rows are, by the number of images that a
row can hold and the number of sequences that wait to be packed.
"""

import dataclasses
import pathlib
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import data_sources, on_cpu
from configs import transfusion_160m
from configs.base import source
from transfusion_jax.data import corpus, pipeline
from transfusion_jax.data.rows import packing
from transfusion_jax.data.sources import array_record
from transfusion_jax.runs import config

PATCHES, ROWS, LENGTH = 256, 8, 4096
PIXELS, MOMENTS, TINY = (256, 256, 3), (32, 32, 16), (2, 2, 4)
TEXTS = 4_000
SLOTS, WINDOWS, BATCHES = (15, 10, 9, 8, 7), (16, 64, 256), 60


def main() -> None:
  """Writes records, makes batches, and prints two tables."""
  arguments = on_cpu.parser(__doc__).parse_args()
  on_cpu.pin(arguments.threads)
  found: dict[str, Any] = {'rounds': arguments.rounds}
  with tempfile.TemporaryDirectory() as place:
    for name, (records, shape) in alone().items():
      write(f'{place}/{name}', records)
      made = of_kind(name, f'{place}/{name}')
      found[name] = speed(made, shape, arguments.rounds)
    write(f'{place}/texts', long_texts())
    write(f'{place}/articles', articles())
    write(f'{place}/captioned', captioned())
    for slots in SLOTS:
      found[f'fill, {slots} pictures'] = fill(mixture(place), slots, 64)
    for window in WINDOWS:
      found[f'fill, window {window}'] = fill(mixture(place), 10, window)
  on_cpu.tell(found, arguments.json)


def alone() -> dict[str, tuple[data_sources.Records, tuple[int, int, int]]]:
  """Sources that are measured alone, with the shape of their images."""
  draw = np.random.default_rng(0)
  pictures = data_sources.pictures()
  moments = [
    {**record, 'image': draw.normal(size=MOMENTS).astype(np.float16)}
    for record in pictures
  ]
  return {
    'JPEG': (pictures, PIXELS),
    'moments': (moments, MOMENTS),
    'text': (data_sources.texts(), PIXELS),
  }


def long_texts() -> data_sources.Records:
  """Texts of 10 to 2,000 tokens with log-uniform lengths."""
  draw = np.random.default_rng(1)
  words = data_sources.texts()
  long = ' '.join(record['text'] for record in words)
  sizes = np.exp(draw.uniform(np.log(20), np.log(4000), TEXTS)).astype(int)
  starts = draw.integers(len(long) - 4000, size=TEXTS)
  return [{'text': long[a : a + n]} for a, n in zip(starts, sizes, strict=True)]


def articles() -> data_sources.Records:
  """Articles: up to 8 images, each between texts of 10 to 200 tokens."""
  draw = np.random.default_rng(2)
  long = ' '.join(record['text'] for record in data_sources.texts())
  picture = np.zeros(TINY, np.float16)
  records = []
  for _ in range(1_000):
    texts, pictures = [], []
    for _ in range(int(draw.integers(9))):
      start, size = draw.integers(len(long) - 400), draw.integers(20, 400)
      texts += [long[start : start + size], None]
      pictures += [None, picture]
    start = int(draw.integers(len(long) - 400))
    records.append(
      {'text': [*texts, long[start : start + 200]], 'image': [*pictures, None]}
    )
  return records


def captioned() -> data_sources.Records:
  """Image with a short caption."""
  picture = np.zeros(TINY, np.float16)
  return [{'text': f'Thing {k} on a table', 'image': picture} for k in range(1_000)]


def write(place: str, records: data_sources.Records) -> None:
  """Writes records to an ArrayRecord file."""
  pathlib.Path(place).mkdir()
  with array_record.Writer(f'{place}/all', 0, 1) as writer:
    for record in records:
      writer.write(record)


def of_kind(name: str, place: str) -> pipeline.DataConfig:
  """Data config with one source."""
  kind = 'text' if name == 'text' else 'captioned'
  only = opened(place, kind, 1.0)
  return data({'only': only}, moments=name == 'moments')


def mixture(place: str) -> pipeline.DataConfig:
  """Data config with half text, a quarter articles, a quarter captioned images."""
  sources = {
    'texts': opened(f'{place}/texts', 'text', 1.0),
    'articles': opened(f'{place}/articles', 'interleaved', 0.5),
    'captioned': opened(f'{place}/captioned', 'captioned', 0.5),
  }
  return data(sources, moments=True)


def opened(place: str, kind: str, weight: float) -> corpus.SourceConfig:
  """Config of a source of documents."""
  section = source('array_record', place, form=kind, weights=(weight,))
  return config.build(corpus.SourceConfig, section)


def data(sources: dict[str, corpus.SourceConfig], *, moments: bool):
  """Data config of the paper's models with other sources."""
  made = config.parse(transfusion_160m.get_config()).data
  changes = {'rows': ROWS, 'shards': ROWS, 'threads': 0, 'prefetch': 0}
  return dataclasses.replace(made, sources=sources, moments=moments, **changes)


def speed(made: pipeline.DataConfig, shape, rounds: int) -> dict[str, float]:
  """Documents, positions and images per CPU second, best of several rounds."""
  batches = iterate(made, shape)
  next(batches)
  best: dict[str, float] = {}
  for _ in range(rounds):
    began, drawn = time.process_time(), documents(batches)
    rows = [next(batches) for _ in range(4)]
    seconds = time.process_time() - began
    counts = {
      'documents': documents(batches) - drawn,
      'positions': sum(int(np.sum(each['end'] > each['start'])) for each in rows),
      'pictures': sum(int(np.sum(each['image_weight'])) for each in rows),
    }
    best = max(
      best,
      {name: round(count / seconds) for name, count in counts.items()},
      key=lambda each: each.get('positions', 0),
    )
  return best


def documents(batches) -> int:
  """Number of documents drawn so far."""
  shards = batches.get_state()['shards'].values()
  return sum(
    count['next'] for each in shards for count in each['source']['sources'].values()
  )


def fill(made: pipeline.DataConfig, slots: int, window: int) -> dict[str, float]:
  """Share of filled positions, and images per row, over some batches."""
  made = dataclasses.replace(made, image_slots=slots, window=window)
  batches = iterate(made, TINY)
  rows = [next(batches) for _ in range(BATCHES)]
  return {
    'fill': round(float(np.mean([packing.fill(each) for each in rows])), 4),
    'pictures a row': round(
      float(np.mean([np.sum(each['image_weight'], axis=1) for each in rows])), 2
    ),
  }


def iterate(made: pipeline.DataConfig, shape):
  """Iterator over batches of all rows."""
  return pipeline.batches(
    made, patches=PATCHES, image_shape=shape, seed=0, rows=range(ROWS)
  )


if __name__ == '__main__':
  main()
