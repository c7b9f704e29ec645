"""Combinations held out of emoji scenes: pairs of objects, objects on a colour."""

import dataclasses
import functools
import itertools
from collections.abc import Collection

import numpy as np
from jaxtyping import Bool, Int

_STREAM = 3  # of random numbers; 0, 1 and 2 are the scenes of the splits


@dataclasses.dataclass(frozen=True)
class Pool:
  """Combinations that the scenes of a split contain, as indices of glyphs and colours.

  Attributes:
    pairs: pairs of different objects, in no order.
    combinations: object, colour.
    ordinary: for every object, the colours that are not held out with it.
  """

  pairs: Int[np.ndarray, 'p 2']
  combinations: Int[np.ndarray, 'c 2']
  ordinary: tuple[frozenset[int], ...]

  @functools.cached_property
  def _together(self) -> Bool[np.ndarray, 'g g']:
    table = np.zeros((len(self.ordinary),) * 2, bool)
    table[tuple(self.pairs.T)] = True
    return table | table.T

  def holds(self, things: Collection[tuple[int, int]]) -> bool:
    """True if different objects, on their colours, may stand in one of its images."""
    objects = sorted({thing for thing, _ in things})
    pairs = itertools.combinations(objects, 2)
    return all(color in self.ordinary[thing] for thing, color in things) and all(
      self._together[pair] for pair in pairs
    )


@functools.lru_cache(maxsize=8)
def choose(*, seed: int, glyphs: int, colors: int, share: float, heldout: bool) -> Pool:
  """Draws the combinations that are held out, or the others, fixed by the seed.

  Objects are held out with equally many colours, up to one, so that every two objects
  have colours in common.

  Raises:
    ValueError: nothing is left to a split, or two objects have no two common colours.
  """
  entropy = np.random.SeedSequence((seed, _STREAM))
  rng = np.random.Generator(np.random.PCG64(entropy))
  pairs = np.stack(np.triu_indices(glyphs, k=1), -1).astype(np.int32)
  held_pairs = np.zeros(len(pairs), bool)
  held_pairs[rng.permutation(len(pairs))[: round(share * len(pairs))]] = True
  held_colors = np.zeros((glyphs, colors), bool)
  each = int(share * colors)
  extra = round((share * colors - each) * glyphs)  # so many objects have one more
  for rank, thing in enumerate(rng.permutation(glyphs)):
    count = each + (rank < extra)
    held_colors[thing, rng.permutation(colors)[:count]] = True
  pool = Pool(
    pairs[held_pairs == heldout],
    np.argwhere(held_colors == heldout),
    tuple(frozenset(map(int, np.flatnonzero(~row))) for row in held_colors),
  )
  in_common = colors - 2 * (each + (extra > 0))
  if not len(pool.pairs) or not len(pool.combinations) or in_common < 2:
    raise ValueError(
      'expected a held-out share that leaves scenes to every split, found '
      f'{share} with {glyphs} glyphs and {colors} colors; use about 0.1, and more '
      'glyphs or colors'
    )
  return pool
