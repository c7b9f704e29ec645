"""Spans against the rule of the paper, written out by brute force."""

import numpy as np

from tests.support import tiny
from transfusion_jax.ops import span


def by_rule(sequence):
  """(j <= i) or both in one image (Transfusion, section 3.2)."""
  image = np.where(sequence.slot < 0, -1, sequence.slot // sequence.patches)
  i, j = np.indices((len(sequence),) * 2)
  return (j <= i) | ((image[i] == image[j]) & (image[i] >= 0))


def test_packed_rows_follow_the_rule_of_the_paper():
  bins = [tiny.varied()[:3], tiny.varied()[3:4], [], tiny.varied()[4:]]
  found = np.asarray(span.visible(tiny.batch(bins).span, tiny.LENGTH))
  for row, sequences in enumerate(bins):
    expected = np.zeros((tiny.LENGTH, tiny.LENGTH), bool)
    begin = 0
    for sequence in sequences:
      here = slice(begin, begin + len(sequence))
      expected[here, here] = by_rule(sequence)
      begin += len(sequence)
    np.testing.assert_array_equal(found[row], expected)


def test_several_images_see_earlier_ones_and_never_later_ones():
  sequence = tiny.varied()[3]
  mask = by_rule(sequence)
  first, second = (np.flatnonzero(sequence.slot // tiny.PATCHES == k) for k in (0, 1))
  assert mask[np.ix_(second, first)].all()
  assert not mask[np.ix_(first, second)].any()
