from tests import tiny
def test_a():
  assert tiny.A == 1
