"""Floating-point operations of a step: of the model by formula, of a program by count.

A multiplication and an addition are two operations. The backward pass takes twice the
forward pass. Recomputation is not work of the model: only `count` includes it.

    model = 6 N tokens + 12 pairs width depth + 3 adapter                       (1)

with N the number of weights that every position is multiplied by (all except the token
table, which is looked up, and the adapter), `pairs` the visible query-key pairs,
`width` the width of all heads together, and `adapter` the forward pass of the adapter.
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
    shapes: shapes of the parameters; N counts those of `transformer` and `head`.
    decoder: sizes of the transformer.
    tokens: number of positions of the batch.
    pairs: number of visible query-key pairs of the batch.
    adapter: FLOPs of the adapter's forward pass.
  """
  weights = tree.size(shapes['transformer']) + tree.size(shapes['head'])
  attention = 12.0 * pairs * decoder.heads * decoder.head_dim * decoder.depth
  return 6.0 * weights * tokens + attention + 3.0 * adapter


def visible_pairs(*, length: int, images: int, patches: int) -> int:
  """Visible query-key pairs of a row that is one document with some images.

  Attention is causal, and bidirectional within an image. Rows packed from several
  documents have fewer pairs.
  """
  return length * (length + 1) // 2 + images * (patches * (patches - 1) // 2)


def count(
  function: Callable[..., Any], *arguments: Any, rounds: Sequence[int] = ()
) -> float:
  """FLOPs of the matrix products and convolutions of a function, loops included.

  Pallas kernels count by their cost estimates.

  Args:
    function: function to trace.
    *arguments: arrays or `jax.ShapeDtypeStruct`s.
    rounds: iterations of loops of unknown length, outermost first; 1 by default.
  """
  return of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr, rounds)


def of_jaxpr(jaxpr: Any, rounds: Sequence[int] = ()) -> float:
  """FLOPs of a jaxpr; see `count`."""
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
  """FLOPs of a convolution; zeros of a dilated (transposed) one are not counted."""
  kernel, numbers = equation.invars[1].aval, equation.params['dimension_numbers']
  outputs = kernel.shape[numbers.rhs_spec[0]]
  groups = equation.params['batch_group_count']
  dilated = math.prod(equation.params['lhs_dilation'])
  each = kernel.size / outputs / dilated / groups
  return 2.0 * equation.outvars[0].aval.size * each


def _inner(params: dict[str, Any]) -> Iterator[Any]:
  """Jaxprs among the parameters of an equation."""
  for value in params.values():
    for each in value if isinstance(value, (tuple, list)) else (value,):
      each = getattr(each, 'jaxpr', each)
      if hasattr(each, 'eqns'):
        yield each
