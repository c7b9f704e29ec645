"""Pytrees: dataclasses as pytree nodes, and nested dicts addressed by path."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar('T')


@dataclass_transform(frozen_default=True)
def struct(cls: type[T]) -> type[T]:
  """Makes a class a frozen dataclass and a pytree node; every field is a child.

  JAX rebuilds instances without calling `__init__`: shape checks on the fields apply to
  instances that our code constructs, not to the placeholders that JAX passes through.
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
  """Instance of a struct that holds, for example, shardings in place of arrays.

  It is built without `__init__`, which would check the types of the fields.
  """
  self = object.__new__(cls)
  for field in dataclasses.fields(cls):
    object.__setattr__(self, field.name, fields.pop(field.name))
  assert not fields, fields
  return self


def nest(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
  """Builds a nested dict from a flat one: `{('a', 'b'): x}` to `{'a': {'b': x}}`."""
  nested: dict[str, Any] = {}
  for path, value in flat.items():
    node = nested
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = value
  return nested


def flatten(nested: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
  """Inverse of `nest`: values that are not mappings, by path."""
  flat: dict[tuple[str, ...], Any] = {}
  for key, value in nested.items():
    if isinstance(value, Mapping):
      flat |= {(key, *path): leaf for path, leaf in flatten(value).items()}
    else:
      flat[(key,)] = value
  return flat


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
  """Lines for all paths with different values: `model.depth: expected 4, found 6`."""
  left, right, lines = flatten(expected), flatten(found), []
  for path in sorted(left.keys() | right.keys()):
    old, new = left.get(path, '(nothing)'), right.get(path, '(nothing)')
    if old != new:
      lines.append(f'{".".join(path)}: expected {old!r}, found {new!r}')
  return lines


def nbytes(tree: Any) -> int:
  """Bytes of all leaves; replicas on several devices count once."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def size(tree: Any) -> int:
  """Number of elements of all leaves, for example the parameter count of a model."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))
