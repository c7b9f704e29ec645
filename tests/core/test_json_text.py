"""Tests of `core.json_text`."""

import pytest

from transfusion_jax.core import json_text


def test_lines_end_at_line_feeds_alone():
  data = '\ufeff{"a": "x\u2028y"}\r\n  \t\r\n\n{"b": 1}'.encode()
  assert [
    (number, json_text.parse_object(line)) for number, line in json_text.lines(data)
  ] == [(1, {'a': 'x\u2028y'}), (4, {'b': 1})]


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    (b'', r'found a mistake \(Expecting value\) at column 1'),
    (b'{"a": 1', 'mistake'),
    (b'\xff{}', 'UTF-8'),
    (b'[]', 'found a list'),
    (b'5', 'found a number'),
    (b'null', 'found null'),
    (b'[' * 100_000, 'inside one another'),
    (b'{"a": ' + b'[' * 900 + b']' * 900 + b'}', 'inside one another'),
    (b'9' * 5000, 'integer string conversion'),
  ],
)
def test_what_is_no_object_is_said_in_one_line(text, said):
  with pytest.raises(ValueError, match=said) as error:
    json_text.parse_object(text)
  assert '\n' not in str(error.value)


def test_many_brackets_side_by_side_are_not_deep():
  wide = [[]] * 1000
  assert json_text.parse(str(wide)) == wide
  deep = '[' * json_text.DEEPEST + ']' * json_text.DEEPEST
  assert json_text.parse(deep)
  with pytest.raises(ValueError, match='inside one another'):
    json_text.parse(f'[{deep}]')


def test_a_file_is_named(tmp_path):
  path = tmp_path / 'a.json'
  with pytest.raises(ValueError, match='No such file'):
    json_text.read_object(path)
  path.write_text('')
  with pytest.raises(ValueError, match=r'a\.json: expected JSON'):
    json_text.read_object(path)
  path.write_text('{"a": 1}')
  assert json_text.read_object(path) == {'a': 1}
