"""Floating-point operations of a step: the model's by formula, a program's by counting.

A multiplication and an addition are two. The backward pass takes twice the forward
pass. What the program recomputes is no work of the model, and counts only in `count`.

    model = 6 N tokens + 12 pairs width depth + 3 adapter                       (1)

with N the weights that every position is multiplied by (all but the token table, which
is looked up, and the adapter), `pairs` the query-key pairs that the span layout shows,
`width` all heads together, and `adapter` the forward pass of the image adapter.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from transfusion_jax.core import tree
from transfusion_jax.models import transformer


def model(
  shapes: Any,
  decoder: transformer.TransformerConfig,
  *,
  tokens: int,
  pairs: int,
  adapter: float,
) -> float:
  """FLOPs of one step over all devices, formula (1).

  Args:
    shapes: of the parameters; those of the `transformer` and of the `head` are N.
    decoder: sizes of the transformer.
    tokens: positions of the batch.
    pairs: visible query-key pairs of the batch.
    adapter: FLOPs of its forward pass.
  """
  weights = tree.size(shapes['transformer']) + tree.size(shapes['head'])
  attention = 12.0 * pairs * decoder.heads * decoder.head_dim * decoder.depth
  return 6.0 * weights * tokens + attention + 3.0 * adapter


def visible_pairs(*, length: int, images: int, patches: int) -> int:
  """Query-key pairs of a row that is one document with so many images.

  Causal, and within an image the keys after the query too. Rows packed from several
  documents see fewer.
  """
  return length * (length + 1) // 2 + images * (patches * (patches - 1) // 2)


def count(
  function: Callable[..., Any], *arguments: Any, rounds: Sequence[int] = ()
) -> float:
  """FLOPs of the matrix products and convolutions of a function, loops included.

  A Pallas kernel counts by its cost estimate, whatever its operations are.

  Args:
    function: to be traced.
    *arguments: arrays or `jax.ShapeDtypeStruct`s.
    rounds: of loops of unknown length, of the outermost first; one where nothing is
      said.
  """
  return of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr, rounds)


def of_jaxpr(jaxpr: Any, rounds: Sequence[int] = ()) -> float:
  """FLOPs of a jaxpr, as `count`."""
  return math.fsum(_equation(equation, rounds) for equation in jaxpr.eqns)


def _equation(equation: Any, rounds: Sequence[int]) -> float:
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    (contracted, _), _ = params['dimension_numbers']
    left = equation.invars[0].aval.shape
    inner = math.prod(left[axis] for axis in contracted)
    return 2.0 * equation.outvars[0].aval.size * inner
  if name == 'conv_general_dilated':
    return _convolution(equation)
  if name == 'pallas_call':
    estimate = params.get('cost_estimate')
    return float(estimate.flops) if estimate is not None else 0.0
  if name == 'while' and rounds:
    within = (of_jaxpr(each, rounds[1:]) for each in _inner(params))
    return rounds[0] * math.fsum(within)
  inside = [of_jaxpr(each, rounds) for each in _inner(params)]
  if name == 'cond':
    return max(inside)
  if name == 'shard_map':
    return params['mesh'].size * math.fsum(inside)
  return math.fsum(inside) * params.get('length', 1)


def _convolution(equation: Any) -> float:
  """Products of every output with the kernel; half for a dilated (transposed) one."""
  kernel, numbers = equation.invars[1].aval, equation.params['dimension_numbers']
  outputs = kernel.shape[numbers.rhs_spec[0]]
  groups = equation.params['batch_group_count']
  dilated = math.prod(equation.params['lhs_dilation'])
  each = kernel.size / outputs / dilated / groups
  return 2.0 * equation.outvars[0].aval.size * each


def _inner(params: dict[str, Any]) -> Iterator[Any]:
  """The jaxprs among an equation's parameters."""
  for value in params.values():
    for each in value if isinstance(value, (tuple, list)) else (value,):
      each = getattr(each, 'jaxpr', each)
      if hasattr(each, 'eqns'):
        yield each
