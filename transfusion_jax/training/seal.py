"""Seals of checkpoints: digests taken when saving and checked when reading.

Arrays are sealed before they leave the devices, by type, shape and a digest that does
not depend on the mesh (`core/digest.py`): storage libraries do not detect a changed
bit. Files are sealed once all are written, by size and, if small, by content; they are
checked before anything big is read.
"""

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from transfusion_jax.core import axes, command, digest, json_text

FILE = 'seal.json'
_SMALL = 65_536  # bytes; larger files hold arrays, which have digests


class Damaged(Exception):
  """Error: a checkpoint differs from what was saved."""


def arrays(tree: Any) -> dict[str, str]:
  """Seal of every array, `float32[4,8] 0123456789abcdef`, by path, `params/matrix`."""
  # One after the other: on CPU devices, many small programs with collectives that run
  # at the same time can deadlock.
  kinds = signature(tree)
  return {
    path: f'{kinds[path]} {digest.text(jax.device_get(_digest(_mesh(leaf))(leaf)))}'
    for path, leaf in _leaves(tree).items()
  }


def not_finite(tree: Any) -> list[str]:
  """Paths of arrays that contain infinity or NaN."""
  floats = {
    path: leaf
    for path, leaf in _leaves(tree).items()
    if jnp.issubdtype(leaf.dtype, jnp.floating)
  }
  return [
    path
    for path, leaf in floats.items()
    if not jax.device_get(_finite(_mesh(leaf))(leaf))
  ]


def signature(tree: Any) -> dict[str, str]:
  """Type and shape of every array (or `ShapeDtypeStruct`), `float32[4,8]`, by path."""
  return {
    path: f'{leaf.dtype}[{",".join(map(str, leaf.shape))}]'
    for path, leaf in _leaves(tree).items()
  }


def kinds(sealed: Mapping[str, str]) -> dict[str, jax.ShapeDtypeStruct]:
  """Shape and type of every sealed array except random keys, by path."""
  found = {}
  for path, kind in sealed.items():
    name, shape = kind.split()[0].removesuffix(']').split('[')
    if not name.startswith('key<'):
      sizes = tuple(int(size) for size in shape.split(',') if size)
      found[path] = jax.ShapeDtypeStruct(sizes, jnp.dtype(name))
  return found


def unlike(sealed: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
  """Arrays of a `signature` that a seal lacks (`+`), and those it has besides (`-`)."""
  has = {path: kind.split()[0] for path, kind in sealed.items()}
  surplus = [f'- {path} {kind}' for path, kind in has.items() - wanted.items()]
  missing = [f'+ {path} {kind}' for path, kind in wanted.items() - has.items()]
  return sorted(surplus + missing, key=lambda line: (line[2:], line))


def check_arrays(sealed: Mapping[str, str], tree: Any) -> None:
  """Raises Damaged if arrays differ from those sealed under the same paths."""
  found = arrays(tree)
  wrong = [path for path, kind in found.items() if kind != sealed[path]]
  if wrong:
    more = f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''
    raise Damaged(f'the bits of {wrong[0]}{more} are not those that were saved')


def write(directory: pathlib.Path) -> None:
  """Seals all files of a complete folder."""
  seal = directory / FILE
  fresh = seal.with_suffix('.tmp')
  fresh.write_text(json.dumps({'files': _files(directory)}))
  fresh.replace(seal)


def check(directory: pathlib.Path) -> None:
  """Raises Damaged if a file is missing, has another size, or is small and differs.

  A folder without a seal is accepted: the process died between writing and sealing it,
  and only its arrays can be checked.
  """
  try:
    found = _files(directory)
    if not (directory / FILE).exists():
      return
    sealed = json_text.read_object(directory / FILE).get('files')
    if not isinstance(sealed, dict):
      raise ValueError('it lists no files')
  except (ValueError, OSError) as error:
    raise Damaged(f'{FILE} cannot be read ({command.line(error)})') from error
  wrong = sorted(name for name in sealed if found.get(name) != sealed[name])
  if wrong:
    what = 'not as it was written' if wrong[0] in found else 'missing'
    more = f' (and {len(wrong) - 1} more)' if len(wrong) > 1 else ''
    raise Damaged(f'{wrong[0]} is {what}{more}')


def text(value: Any) -> dict[str, str]:
  """Seals a JSON value with its SHA-256."""
  line = json.dumps(value)
  return {'json': line, 'sha256': hashlib.sha256(line.encode()).hexdigest()}


def read_progress(sealed: Mapping[str, str], step: int) -> dict[str, Any]:
  """Progress of a step, sealed by `text`.

  Raises:
    Damaged: it differs from what was saved, or belongs to another step.
  """
  line = sealed.get('json', '')
  if hashlib.sha256(str(line).encode()).hexdigest() != sealed.get('sha256'):
    raise Damaged('its progress is not what was saved')
  found = json.loads(line)
  if found['step'] != step:
    raise Damaged(f'the folder {step} holds step {found["step"]}')
  return found


def _leaves(tree: Any) -> dict[str, Any]:
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _mesh(leaf: jax.Array) -> Mesh | None:
  return leaf.sharding.mesh if isinstance(leaf.sharding, NamedSharding) else None


@functools.cache
def _digest(mesh: Mesh | None):
  """Jitted digest: one small program per shape and sharding, no large one per state."""
  return jax.jit(digest.digest, out_shardings=_whole(mesh))


@functools.cache
def _finite(mesh: Mesh | None):
  return jax.jit(lambda x: jnp.isfinite(x).all(), out_shardings=_whole(mesh))


def _whole(mesh: Mesh | None) -> NamedSharding | None:
  return None if mesh is None else axes.replicated(mesh)


def _files(directory: pathlib.Path) -> dict[str, list[int | str]]:
  found = {}
  for path in sorted(directory.rglob('*')):
    special = not path.is_file() and not path.is_dir() and os.path.lexists(path)
    if special:  # opening it may block for ever
      raise Damaged(f'{path.relative_to(directory)} is neither a file nor a folder')
    if path.is_file() and path.name not in (FILE, f'{FILE[:-5]}.tmp'):
      size = path.stat().st_size
      content = path.read_bytes() if size <= _SMALL else b''
      name = path.relative_to(directory).as_posix()
      found[name] = [size, hashlib.sha256(content).hexdigest()]
  return found
