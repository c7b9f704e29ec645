"""Structs that JAX carries, and nested dicts addressed by path."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float

from transfusion_jax.core import tree


@tree.struct
class Pair:
  left: Float[Array, ' n']
  right: Float[Array, ' n']


def pair():
  return Pair(jnp.ones(3), jnp.zeros(3))


def test_a_struct_passes_through_jit_grad_and_vmap():
  loss = jax.jit(jax.grad(lambda p: jnp.sum(p.left**2 + 3.0 * p.right)))
  gradient = loss(pair())
  assert isinstance(gradient, Pair)
  assert gradient.left.tolist() == [2.0] * 3
  assert gradient.right.tolist() == [3.0] * 3
  assert jax.vmap(lambda p: p.left + p.right)(pair()).tolist() == [1.0] * 3


def test_jax_may_fill_a_struct_with_placeholders():
  mapped = jax.tree.map(lambda leaf: 'placeholder', pair())
  assert mapped.left == mapped.right == 'placeholder'


def test_a_likeness_holds_anything_under_the_same_structure():
  found = tree.likeness(Pair, left='here', right=None)
  assert (found.left, found.right) == ('here', None)
  with pytest.raises(KeyError):
    tree.likeness(Pair, left='here')
  with pytest.raises(AssertionError):
    tree.likeness(Pair, left=1, right=2, middle=3)


def test_a_struct_cannot_be_changed():
  with pytest.raises(dataclasses.FrozenInstanceError):
    pair().left = jnp.zeros(3)


def test_paths_name_the_fields():
  paths, _ = jax.tree_util.tree_flatten_with_path({'pair': pair()})
  assert [jax.tree_util.keystr(path) for path, _ in paths] == [
    "['pair'].left",
    "['pair'].right",
  ]


def test_flatten_is_the_inverse_of_nest():
  flat = {('a', 'b'): 1, ('a', 'c', 'd'): 2, ('e',): 3}
  nested = tree.nest(flat)
  assert nested == {'a': {'b': 1, 'c': {'d': 2}}, 'e': 3}
  assert tree.flatten(nested) == flat


def test_differences_name_the_path_and_both_values():
  lines = tree.differences(
    {'model': {'depth': 4, 'width': 8}, 'old': 1},
    {'model': {'depth': 6, 'width': 8}, 'new': 2},
  )
  assert lines == [
    'model.depth: expected 4, found 6',
    "new: expected '(nothing)', found 2",
    "old: expected 1, found '(nothing)'",
  ]
  assert tree.differences({'a': [1]}, {'a': [1]}) == []


def test_size_counts_elements():
  assert tree.size({'a': jnp.zeros((2, 3)), 'b': {'c': jnp.zeros(())}}) == 7
