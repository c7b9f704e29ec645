"""What sources share: paths of nested values, text, the part a record is in."""

import pytest

from transfusion_jax.data.sources import source


def test_nested_values_get_dotted_paths():
  assert source.flatten(
    {
      'text': 'a',
      'none': None,
      'list': [1, None, 2],
      'a': {'b': {'c': 1}, 'd': [], 'e': {}},
      'talk': [{'from': 'me', 'said': ['x']}, None, {'from': 'you', 'at': {'h': 3}}],
    }
  ) == {
    'text': 'a',
    'list': [1, None, 2],
    'a.b.c': 1,
    'a.d': [],
    'talk.from': ['me', None, 'you'],
    'talk.said': [['x'], None, None],
    'talk.at.h': [None, None, 3],
  }


@pytest.mark.parametrize('nested', [{'a.b': 1, 'a': {'b': 2}}, {'a': [{'b': 1}, 'c']}])
def test_ambiguous_values_are_refused(nested):
  with pytest.raises(ValueError, match='expected'):
    source.flatten(nested)


def test_text():
  assert source.text(b'\xef\xbb\xbfa\r\n\r\nb\n') == 'a\n\nb\n'
  assert source.text('naïve 狐 🦊'.encode()) == 'naïve 狐 🦊'
  for data in (
    b'caf\xe9',
    'a'.encode('utf-16'),
    'a'.encode('utf-16-le'),
    b'a\0',
    b'\x80',
  ):
    with pytest.raises(ValueError, match='expected text in UTF-8'):
      source.text(data)


def test_records_are_found_in_their_parts():
  ends = [2, 2, 5]
  assert [source.locate(n, ends) for n in range(5)] == [
    (0, 0), (0, 1), (2, 0), (2, 1), (2, 2),
  ]  # fmt: skip
  assert source.locate(-1, ends) == (2, 2)
  for index, bad in ((5, ends), (-6, ends), (0, [])):
    with pytest.raises(IndexError):
      source.locate(index, bad)


def test_digests_differ():
  assert source.digest(['a', 1]) == source.digest(['a', 1])
  assert len({source.digest(each) for each in (['a', 1], ['a', 2], {'a': 1})}) == 3


def test_a_summary_on_one_line():
  line = source.Summary(
    1039, pairs=1024, images=3, texts=12, passed={'.md': 1, '.xyz': 20}
  ).line()
  assert line == (
    '1,024 pairs, 3 images alone, 12 texts alone; passed over: 20 .xyz, 1 .md'
  )
  assert source.Summary(1, pairs=1, images=0, texts=0).line() == '1 pair'
  assert source.Summary(2, pairs=0, images=1, texts=1).line() == (
    '1 image alone, 1 text alone'
  )
  assert source.Summary(1200).line() == '1,200 records'
