"""Modules and parameters: the only bridge between Flax objects and plain nested dicts.

A module is written with `nnx` and is a pytree. Everything outside `models/` sees a
`Definition` (the module without its numbers) and `params`, a nested dict of arrays
under the module's attribute names. A parameter is made by `weight`, which names its
axes.
"""

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from transfusion_jax.core import sharding, tree

Module = nnx.Module
List = nnx.List
Rngs = nnx.Rngs
Params = dict[str, Any]


class Weight(nnx.Param):
  """A trained array that knows the names of its axes."""


def weight(
  rngs: nnx.Rngs, *, scale: float, fan_in: int | None = None, **axes: int
) -> Weight:
  """A normally distributed parameter, its shape and axis names given as keywords.

  Args:
    rngs: where randomness comes from.
    scale: standard deviation; with `fan_in`, times `1 / sqrt(fan_in)`. 0 gives zeros.
    fan_in: number of inputs added up by one output.
    **axes: axis name and length, in order: `weight(rngs, scale=1.0, embed=8, mlp=16)`.
      Where one name stands twice, `__` and a suffix keep the keywords apart:
      `conv__y=3, conv__x=3`.
  """
  shape = tuple(axes.values())
  names = tuple(axis_name(name) for name in axes)
  deviation = scale / math.sqrt(fan_in) if fan_in else scale
  if deviation == 0:
    return Weight(jnp.zeros(shape, jnp.float32), axes=names)
  return Weight(jax.random.normal(rngs.params(), shape) * deviation, axes=names)


def constant(value: float, **axes: int) -> Weight:
  """A parameter that starts at one value everywhere, as the gain of a norm does."""
  names = tuple(axis_name(name) for name in axes)
  return Weight(jnp.full(tuple(axes.values()), value, jnp.float32), axes=names)


def cast(parameter: Weight, dtype: DTypeLike) -> jax.Array:
  """A parameter as the activations need it: in their type, on a mesh gathered."""
  return sharding.gathered(parameter[...], parameter.axes, dtype)


def axis_name(keyword: str) -> str:
  """The axis a keyword stands for: `conv__x` is a second `conv`."""
  return keyword.split('__')[0]


def stack(make: Callable[[nnx.Rngs], Module], rngs: nnx.Rngs, depth: int) -> Module:
  """`depth` modules in one, every parameter with a leading layer axis, for `scan`."""
  keys = jax.random.split(rngs.params(), depth)
  return jax.vmap(lambda key: make(nnx.Rngs(key)))(keys)


def layer(stacked: Module, number: int) -> Module:
  """One of the modules that `stack` put together."""
  return jax.tree.map(lambda leaf: leaf[number], stacked)


@dataclasses.dataclass(frozen=True)
class Definition:
  """A module without its numbers: `bind(params)` gives the module back."""

  structure: Any
  paths: tuple[tuple[str, ...], ...]

  def bind(self, params: Params) -> Module:
    """The module holding `params`, the nested dict that `split` makes."""
    flat = tree.flatten(params)
    return jax.tree.unflatten(self.structure, [flat[path] for path in self.paths])


def split(module: Module) -> tuple[Definition, Params]:
  """Takes a module apart into its definition and its parameters."""
  leaves, structure = jax.tree_util.tree_flatten_with_path(module)
  paths = tuple(_names(path[:-1]) for path, _ in leaves)  # without Variable's `value`
  params = tree.nest(
    {path: leaf for path, (_, leaf) in zip(paths, leaves, strict=True)}
  )
  return Definition(structure, paths), params


def axes(module: Module) -> Params:
  """The axis names of every parameter, nested as `split` nests the arrays."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(
    module, is_leaf=lambda node: isinstance(node, nnx.Variable)
  )
  return tree.nest({_names(path): leaf.axes for path, leaf in leaves})


@dataclasses.dataclass(frozen=True)
class Blueprint:
  """All that is known of a model before it has numbers.

  Attributes:
    definition: how to bind parameters.
    shapes: nested dict of `jax.ShapeDtypeStruct`.
    axes: nested dict of tuples of axis names, one per trailing axis.
    init: from a key to the parameters; traceable, so that it can be jitted sharded.
  """

  definition: Definition
  shapes: Params
  axes: Params
  init: Callable[[jax.Array], Params]


def blueprint(make: Callable[[nnx.Rngs], Module]) -> Blueprint:
  """Traces the making of a model without allocating it."""

  def init(key):
    return split(make(nnx.Rngs(key)))[1]

  abstract = jax.eval_shape(lambda: make(nnx.Rngs(jax.random.key(0))))
  definition, shapes = split(abstract)
  return Blueprint(definition, shapes, axes(abstract), init)


def divide(whole: Blueprint, frozen: Collection[str]) -> tuple[Blueprint, Blueprint]:
  """A blueprint of what is trained, and one of the branches that are frozen.

  Both define the whole model: `bind` takes the parameters of both, merged.
  """

  def part(inside: bool) -> Blueprint:
    def some(branches: Params) -> Params:
      return {k: v for k, v in branches.items() if (k in frozen) == inside}

    return Blueprint(
      whole.definition,
      some(whole.shapes),
      some(whole.axes),
      lambda key: some(whole.init(key)),
    )

  return part(False), part(True)


def _names(path: tuple) -> tuple[str, ...]:
  return tuple(
    str(getattr(key, 'name', getattr(key, 'idx', getattr(key, 'key', key))))
    for key in path
  )
