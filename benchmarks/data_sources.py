"""Records per second of every kind of corpus, read in random order.

  python -m benchmarks.data_sources --json=data_sources.json

The same records in every kind: 2,000 captioned images (JPEG, 256 pixels, not decoded
here) and 10,000 texts of 100 to 3,000 characters. They are written to a temporary
folder and read once in shuffled order, by one thread and by 16. Figures are the best of
several rounds; files are in the page cache. Opening includes the index; the last line
is the index of a million lines of JSON. Parquet has groups of 100 rows, of which 8 are
cached, or all in a separate line.
"""

import functools
import io
import json
import pathlib
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import numpy as np
import pyarrow
import tensorflow_datasets as tfds
from PIL import Image
from pyarrow import parquet as pq

from benchmarks import on_cpu
from transfusion_jax.data.sources import (
  array_record,
  folder,
  json_lines,
  parquet,
  source,
  web_dataset,
)
from transfusion_jax.data.sources import tfds as tfds_source

PICTURES, TEXTS, LINES, SIZE = 2_000, 10_000, 1_000_000, 256
GROUP, KEPT, ALL, THREADS = 100, 8, 1_000, 16
Records = list[dict[str, Any]]


def main() -> None:
  """Writes and reads the records, and prints a table."""
  arguments = on_cpu.parser(__doc__).parse_args()
  on_cpu.pin(arguments.threads)
  found = {'threads': arguments.threads, 'rounds': arguments.rounds}
  with tempfile.TemporaryDirectory() as place:
    for name, records in (('pictures', pictures()), ('texts', texts())):
      below = pathlib.Path(place, name)
      opens = write(below, records)
      for kind, opener in opens.items():
        found[f'{name}, {kind}'] = measure(opener, records, arguments.rounds)
        print(f'{name}, {kind}: {found[f"{name}, {kind}"]}', flush=True)
    found['index of a million lines'] = index_of_lines(pathlib.Path(place))
  on_cpu.tell(found, arguments.json)


def pictures() -> Records:
  """JPEG images of smooth noise, about 20 kB each like photographs."""
  draw, records = np.random.default_rng(0), []
  for number in range(PICTURES):
    coarse = draw.integers(256, size=(SIZE // 8, SIZE // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((SIZE, SIZE)).save(buffer, 'JPEG', quality=90)
    records.append({'image': buffer.getvalue(), 'text': f'A picture of thing {number}'})
  return records


def texts() -> Records:
  """Texts of random words."""
  draw = np.random.default_rng(0)
  letters = draw.choice(list('abcdefghij   '), 1 << 20)
  long = ''.join(letters.tolist())
  starts, sizes = draw.integers(1 << 19, size=TEXTS), draw.integers(100, 3000, TEXTS)
  return [{'text': long[a : a + n]} for a, n in zip(starts, sizes, strict=True)]


def write(place: pathlib.Path, records: Records) -> dict[str, Callable[[], Any]]:
  """Writes the records in every format; returns functions that open them."""
  for name in ('folder', 'json', 'parquet', 'tar', 'array_record', 'tfds'):
    (place / name).mkdir(parents=True)
  write_folder(place / 'folder', records)
  write_json(place / 'json', records)
  columns = {name: [record[name] for record in records] for name in records[0]}
  pq.write_table(
    pyarrow.table(columns), place / 'parquet' / 'all.parquet', GROUP, compression='zstd'
  )
  write_tar(place / 'tar' / 'all.tar', records)
  with array_record.Writer(f'{place}/array_record/all', 0, 1) as writer:
    for record in records:
      writer.write(record)
  Stored(records, str(place / 'tfds')).download_and_prepare()
  pictured = ('image',) if 'image' in records[0] else ()
  stored = f'{place}/parquet'
  return {
    'folder': functools.partial(folder.Folder, f'{place}/folder'),
    'json_lines': functools.partial(json_lines.JsonLines, f'{place}/json', pictured),
    'parquet': functools.partial(parquet.Parquet, stored, columns=(), groups=KEPT),
    'parquet, all kept': functools.partial(
      parquet.Parquet, stored, columns=(), groups=ALL
    ),
    'web_dataset': functools.partial(web_dataset.WebDataset, f'{place}/tar'),
    'array_record': functools.partial(
      array_record.ArrayRecord, f'{place}/array_record', ''
    ),
    'tfds': functools.partial(tfds_source.Tfds, 'stored', 'train', f'{place}/tfds'),
  }


def write_folder(place: pathlib.Path, records: Records) -> None:
  """Writes files `name.jpg` and `name.txt`."""
  for number, record in enumerate(records):
    (place / f'{number}.txt').write_text(record['text'])
    if 'image' in record:
      (place / f'{number}.jpg').write_bytes(record['image'])


def write_json(place: pathlib.Path, records: Records) -> None:
  """Writes JSON Lines, and image files beside them."""
  with (place / 'all.jsonl').open('w') as file:
    for number, record in enumerate(records):
      line = {'text': record['text']}
      if 'image' in record:
        line['image'] = f'{number}.jpg'
        (place / line['image']).write_bytes(record['image'])
      file.write(json.dumps(line) + '\n')


def write_tar(path: pathlib.Path, records: Records) -> None:
  """Writes a tar shard."""
  with tarfile.open(path, 'w') as opened:
    for number, record in enumerate(records):
      members = {'jpg': record.get('image'), 'txt': record['text'].encode()}
      for ending, data in members.items():
        if data is not None:
          info = tarfile.TarInfo(f'{number}.{ending}')
          info.size = len(data)
          opened.addfile(info, io.BytesIO(data))


class Stored(tfds.core.GeneratorBasedBuilder):
  """Builder of a TFDS data set with the same records."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, records: Records, place: str):
    self._records = records
    super().__init__(data_dir=place, file_format='array_record')

  def _info(self):
    features = {'image': tfds.features.Image(), 'text': tfds.features.Text()}
    kept = {name: features[name] for name in self._records[0]}
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(kept), disable_shuffling=True
    )

  def _split_generators(self, dl_manager):
    return {'train': enumerate(self._records)}

  def _generate_examples(self):
    raise NotImplementedError  # the splits hold what there is


def measure(
  opener: Callable[[], source.Source], records: Records, rounds: int
) -> dict[str, float]:
  """Seconds to open, and records per second of one thread and of 16."""
  began = time.perf_counter()
  opened = opener()
  seconds = {'open': time.perf_counter() - began}
  assert len(opened) == len(records)
  order = np.random.default_rng(0).permutation(len(opened)).tolist()
  if opened.name(0).endswith('.jsonl:1'):  # the one that keeps the order
    assert opened[7]['text'] == records[7]['text']
  with futures.ThreadPoolExecutor(THREADS) as pool:
    for name, mapped in (('one', map), ('sixteen', pool.map)):
      taken = []
      for _ in range(rounds):
        began = time.perf_counter()
        for _ in mapped(opened.__getitem__, order):
          pass
        taken.append(time.perf_counter() - began)
      seconds[name] = min(taken)
  return {
    'seconds_to_open': round(seconds['open'], 3),
    'one_thread': round(len(order) / seconds['one']),
    'sixteen_threads': round(len(order) / seconds['sixteen']),
  }


def index_of_lines(place: pathlib.Path) -> dict[str, float]:
  """Seconds to index a million lines, and their size in megabytes."""
  path = place / 'lines.jsonl'
  with path.open('w') as file:
    for record in texts() * (LINES // TEXTS):
      file.write(json.dumps(record) + '\n')
  began = time.perf_counter()
  opened = json_lines.JsonLines(str(path), ())
  seconds = time.perf_counter() - began
  assert len(opened) == LINES
  return {'seconds': round(seconds, 2), 'megabytes': path.stat().st_size // 10**6}


if __name__ == '__main__':
  main()
