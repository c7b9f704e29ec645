"""Sets of overrides, and functions that combine them.

An override is a dict from fields of a config to values, with dotted names or nested
dicts. A set is any iterable of overrides, so that these functions can be nested. The
`sweep()` of a config file returns such a set, or yields overrides:

    def sweep():
      yield {}
      yield from overrides.product(
        overrides.grid({'model.adapter.linear.patch': (1, 2), 'seed': range(3)}),
        overrides.draw(4, {'optimizer.clip': overrides.log_uniform(0.1, 10)}),
      )

The functions are deterministic: the same arguments give the same set.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Override = Mapping[str, Any]
Distribution = Callable[[random.Random], Any]
"""Function that draws one value."""


def grid(fields: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
  """All combinations of the fields' values; the last field changes fastest."""
  return product(*([{name: each} for each in fields[name]] for name in fields))


def product(*sets: Iterable[Override]) -> list[dict[str, Any]]:
  """All combinations of one override from each set.

  Raises:
    ValueError: two sets have a field in common.
  """
  return [_merged(map(flat, each)) for each in itertools.product(*sets)]


def side_by_side(*sets: Iterable[Override]) -> list[dict[str, Any]]:
  """Merges the first overrides of all sets, then the second ones, and so on.

  Raises:
    ValueError: the sets are of different sizes, or have a field in common.
  """
  rows = [list(each) for each in sets]
  counts = {len(each) for each in rows}
  if len(counts) > 1:
    raise ValueError(
      f'expected sets of one size side by side, found sizes '
      f'{", ".join(str(len(each)) for each in rows)}; lengthen the shorter ones'
    )
  return [_merged(map(flat, each)) for each in zip(*rows, strict=True)]


def chain(*sets: Iterable[Override]) -> list[dict[str, Any]]:
  """Concatenates sets."""
  return [dict(each) for each in itertools.chain(*sets)]


def draw(
  count: int, fields: Mapping[str, Distribution], *, seed: int = 0
) -> list[dict[str, Any]]:
  """Draws random overrides.

  Every field has its own random stream: a larger count only adds overrides, and another
  field does not change the values of the others.

  Args:
    count: number of overrides.
    fields: distribution of each field.
    seed: seed of all streams.
  """
  streams = {name: random.Random(f'{seed} {name}') for name in fields}
  return [
    {name: fields[name](stream) for name, stream in streams.items()}
    for _ in range(count)
  ]


def choice(*values: Any) -> Distribution:
  """Uniform distribution over some values."""
  return lambda stream: stream.choice(values)


def uniform(low: float, high: float) -> Distribution:
  """Uniform distribution between two numbers, rounded to four digits.

  Raises:
    ValueError: the bounds are not in order.
  """
  _check_bounds(low, high)
  return lambda stream: _short(stream.uniform(low, high))


def log_uniform(low: float, high: float) -> Distribution:
  """Log-uniform distribution between two numbers, rounded to four digits.

  Raises:
    ValueError: the bounds are not in order, or not positive.
  """
  _check_bounds(low, high)
  if low <= 0:
    raise ValueError(f'expected positive bounds for log_uniform, found {low}; raise it')
  bounds = math.log(low), math.log(high)
  return lambda stream: _short(math.exp(stream.uniform(*bounds)))


def flat(override: Override) -> dict[str, Any]:
  """Flattens an override to dotted names; ValueError if a field occurs twice."""
  parts: list[dict[str, Any]] = []
  for name, value in override.items():
    inner = flat(value) if isinstance(value, Mapping) else {'': value}
    parts.append({f'{name}.{path}'.rstrip('.'): each for path, each in inner.items()})
  return _merged(parts)


def _merged(parts: Iterable[Override]) -> dict[str, Any]:
  merged: dict[str, Any] = {}
  for part in parts:
    for name, value in part.items():
      if name in merged:
        raise ValueError(
          f'expected {name} once in an override, found it twice; drop one'
        )
      merged[name] = value
  return merged


def _check_bounds(low: float, high: float) -> None:
  if not low < high:
    raise ValueError(f'expected bounds in order, found {low} and {high}; swap them')


def _short(value: float) -> float:
  return float(f'{value:.4g}')
