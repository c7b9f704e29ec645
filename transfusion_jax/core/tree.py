"""Pytrees: dataclasses that JAX can carry, and nested dicts addressed by path."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar('T')


@dataclass_transform(frozen_default=True)
def struct(cls: type[T]) -> type[T]:
  """Makes a frozen dataclass and registers it as a pytree; every field is a child.

  JAX rebuilds the class without calling `__init__`, so that shape checks on the fields
  apply to what our code constructs and not to the placeholders that JAX passes through.
  """
  cls = dataclasses.dataclass(frozen=True)(cls)
  names = tuple(field.name for field in dataclasses.fields(cls))

  def flatten(self):
    return tuple((jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in names), None

  def unflatten(_, children):
    self = object.__new__(cls)
    for name, child in zip(names, children, strict=True):
      object.__setattr__(self, name, child)
    return self

  jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
  return cls


def likeness(cls: type[T], **fields: Any) -> T:
  """A struct that holds something else than its arrays, such as their shardings.

  It is made as JAX makes one: without `__init__`, which would check for arrays.
  """
  self = object.__new__(cls)
  for field in dataclasses.fields(cls):
    object.__setattr__(self, field.name, fields.pop(field.name))
  assert not fields, fields
  return self


def nest(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
  """Nested dict from a flat one: `{('a', 'b'): x}` becomes `{'a': {'b': x}}`."""
  nested: dict[str, Any] = {}
  for path, value in flat.items():
    node = nested
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = value
  return nested


def flatten(nested: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
  """The inverse of `nest`: every value that is not a mapping under its path."""
  flat: dict[tuple[str, ...], Any] = {}
  for key, value in nested.items():
    if isinstance(value, Mapping):
      flat |= {(key, *path): leaf for path, leaf in flatten(value).items()}
    else:
      flat[(key,)] = value
  return flat


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
  """One line per path whose values differ: `model.depth: expected 4, found 6`."""
  left, right, lines = flatten(expected), flatten(found), []
  for path in sorted(left.keys() | right.keys()):
    old, new = left.get(path, '(nothing)'), right.get(path, '(nothing)')
    if old != new:
      lines.append(f'{".".join(path)}: expected {old!r}, found {new!r}')
  return lines


def nbytes(tree: Any) -> int:
  """Bytes of all leaves, each counted once however it is sharded."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def size(tree: Any) -> int:
  """Number of elements in all leaves, for example the parameters of a model."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))
