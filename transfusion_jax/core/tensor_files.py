"""Tensors by name from files of published weights.

Formats: safetensors, as one file or as shards with an index
(`*.safetensors.index.json`), and PyTorch files (`torch_file.py`). Only selected tensors
are read, so that an autoencoder can be taken from a file that holds a whole model.
"""

import pathlib
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from transfusion_jax.core import json_text, torch_file

TORCH = ('.ckpt', '.pt', '.pth', '.bin')
"""File name suffixes of PyTorch files."""

SHOWN = 3
"""Number of tensor names listed in an error."""

_DTYPES = {
  'F64': '<f8',
  'F32': '<f4',
  'F16': '<f2',
  'BF16': ml_dtypes.bfloat16,
  'F8_E4M3': ml_dtypes.float8_e4m3fn,
  'F8_E5M2': ml_dtypes.float8_e5m2,
  'F8_E4M3FNUZ': ml_dtypes.float8_e4m3fnuz,
  'F8_E5M2FNUZ': ml_dtypes.float8_e5m2fnuz,
  'I64': '<i8',
  'I32': '<i4',
  'I16': '<i2',
  'I8': 'i1',
  'U64': '<u8',
  'U32': '<u4',
  'U16': '<u2',
  'U8': 'u1',
  'BOOL': '?',
}
"""NumPy dtypes by their names in safetensors."""

_POINTER = b'version https://git-lfs'


def read(path: pathlib.Path, choose: torch_file.Choose = list) -> dict[str, np.ndarray]:
  """Reads arrays by name, in their stored types.

  Args:
    path: a `.safetensors` file, a `.json` index of shards, or a PyTorch file.
    choose: selects the names to read from all names; by default all of them.

  Raises:
    ValueError: the file does not exist or has another format.
  """
  return (_shards if path.suffix == '.json' else _file)(path, choose)


def _file(path: pathlib.Path, choose: torch_file.Choose) -> dict[str, np.ndarray]:
  if path.suffix not in ('.safetensors', *TORCH):
    raise ValueError(
      f'expected weights in .safetensors, {", ".join(TORCH)} or an index of shards '
      f'(.json), found {path}; name such a file'
    )
  if not path.is_file():
    raise ValueError(f'expected weights in {path}, found no such file; name another')
  try:
    with path.open('rb') as file:
      if file.read(len(_POINTER)) == _POINTER:
        raise ValueError(
          f'expected weights in {path}, found what Git LFS puts in their place; get '
          'them with git lfs pull'
        )
    return (torch_file.read if path.suffix in TORCH else _safetensors)(path, choose)
  except OSError as error:
    raise ValueError(
      f'expected weights in {path}, found {error.strerror}; check the file'
    ) from error


def _safetensors(path: pathlib.Path, choose: torch_file.Choose):
  try:
    with safetensors.safe_open(path, framework='np'):
      pass  # the header is sound, and tensors fill the file without gaps
  except safetensors.SafetensorError as error:
    raise ValueError(
      f'expected a .safetensors file, found {path} ({error}); get it once more, or '
      'name another'
    ) from error
  with path.open('rb') as file:
    length = int.from_bytes(file.read(8), 'little')
    header = json_text.parse_object(file.read(length))
  header.pop('__metadata__', None)
  return {
    name: _tensor(path, name, header[name], start=8 + length)
    for name in choose([*header])
  }


def _tensor(
  path: pathlib.Path, name: str, entry: dict[str, Any], *, start: int
) -> np.ndarray:
  """Reads one tensor; its data offsets count from byte `start` of the file."""
  dtype = _DTYPES.get(entry['dtype'])
  if dtype is None:
    raise ValueError(
      f'expected numbers of 8 bits or more in {path}, found {name} of type '
      f'{entry["dtype"]}; convert it to float32 or bfloat16'
    )
  begin, end = entry['data_offsets']
  data = np.fromfile(path, np.uint8, end - begin, offset=start + begin)
  return data.view(dtype).reshape(entry['shape'])


def _shards(index: pathlib.Path, choose: torch_file.Choose) -> dict[str, np.ndarray]:
  if not index.is_file():
    raise ValueError(f'expected an index of shards, found no {index}; name another')
  places = json_text.read_object(index).get('weight_map')
  entries = places.items() if isinstance(places, dict) else ()
  if not entries or not all(isinstance(file, str) for _, file in entries):
    raise ValueError(
      f'expected weight_map, from names of tensors to files, in {index}, found none; '
      'name the index that the weights came with'
    )
  files = sorted(set(places.values()))
  for file in files:
    inside = file == pathlib.PurePath(file).name and file not in ('', '.', '..')
    if not inside or file.endswith('.json'):
      raise ValueError(
        f'expected names of files beside {index}, found {file!r}; name the index that '
        'the weights came with'
      )
  absent = [file for file in files if not (index.parent / file).is_file()]
  if absent:
    raise ValueError(
      f'expected all {len(files)} shards beside {index}, found no {listed(absent)}; '
      'get them as well'
    )
  wanted, found = set(choose([*places])), {}
  for file in files:
    there = {name for name, place in places.items() if place == file}
    found |= _shard(index.parent / file, there, wanted)
  return found


def _shard(path: pathlib.Path, there: set[str], wanted: set[str]):
  """Reads the wanted tensors of a shard; its names must match the index."""
  names: list[str] = []

  def choose(found: list[str]) -> list[str]:
    names.extend(found)
    return [name for name in found if name in wanted]

  tensors = _file(path, choose)
  for others, found in ((there - set(names), 'no'), (set(names) - there, 'also')):
    if others:
      raise ValueError(
        f'expected in {path} what its index says, found {found} '
        f'{listed(sorted(others))}; get all shards once more'
      )
  return tensors


def listed(names: list[str]) -> str:
  """Text with the first few names and the number of the others."""
  more = f' (and {len(names) - SHOWN} more)' if len(names) > SHOWN else ''
  return f'{", ".join(names[:SHOWN])}{more}'
