"""What orders may say: every field of a wrong kind is one line with its place."""

import dataclasses
import json
import pathlib

import pytest

from tests.support import tiny
from transfusion_jax.core import command
from transfusion_jax.data.images import image_files
from transfusion_jax.runs import requests

TEXT_ALONE = dataclasses.replace(tiny.LIMITS, size=(0, 0), patches=0)
GIVEN = {'seed': 0, 'pictures': None, 'steps': 100}


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  (tmp_path / 'a.png').write_bytes(image_files.encode_png(tiny.picture(3)))
  return tmp_path


def written(folder: pathlib.Path, data: bytes) -> pathlib.Path:
  (folder / 'orders.jsonl').write_bytes(data)
  return folder / 'orders.jsonl'


def test_lines_end_at_line_feeds_alone(tmp_path):
  words = 'a\u2028b\u0085c'
  lines = [json.dumps({'prompt': words}, ensure_ascii=False), ' \t', '{"image": "a"}']
  file = written(tmp_path, b'\xef\xbb\xbf' + '\r\n'.join(lines).encode())
  found = list(requests.read(file))
  assert [order for _, order in found] == [{'prompt': words}, {'image': 'a'}]
  assert [where.split(', ')[-1] for where, _ in found] == ['line 1', 'line 3']


@pytest.mark.parametrize(
  ('line', 'said'),
  [
    (b'[' * 3000 + b']' * 3000, 'line 1: expected JSON of at most 64'),
    (b'{"document": ' + b'[' * 900 + b']' * 900 + b'}', 'line 1: expected JSON of at'),
    (b'{"prompt": "\xff"}', 'line 1: expected text in UTF-8'),
    (b'{"seed": ' + b'9' * 5000 + b'}', 'line 1: '),
    (b'{', 'line 1: expected JSON'),
    (b'"a panda"', 'line 1: expected an object'),
    (b'[' + b'1, ' * 5000 + b'1]', 'line 1: expected an object'),
    (b'\n \n', 'an empty file'),
  ],
)
def test_a_line_that_is_no_order_is_named(tmp_path, line, said):
  with pytest.raises(ValueError, match='expected|digits') as raised:
    list(requests.read(written(tmp_path, line)))
  assert said in str(raised.value)
  assert str(tmp_path) in str(raised.value)
  assert len(str(raised.value)) < 400


@pytest.mark.parametrize('name', ['none.jsonl', '.'])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name):
  with pytest.raises(ValueError, match='expected a file of orders, found'):
    list(requests.read(tmp_path / name))


WRONG = [3, 1.5, True, None, [], ['a'], {}, {'image': 'a.png'}, [[[[]]]]]
KINDS = {'seed': int, 'count': int, 'pictures': int, 'strength': (int, float)}


@pytest.mark.parametrize(
  ('base', 'field'),
  [
    ({'prompt': 'a'}, 'prompt'),
    ({'prompt': 'a'}, 'seed'),
    ({'prompt': 'a'}, 'count'),
    ({'image': 'a.png'}, 'image'),
    ({'image': 'a.png'}, 'question'),
    ({'image': 'a.png'}, 'instruction'),
    ({'image': 'a.png'}, 'mask'),
    ({'image': 'a.png'}, 'strength'),
    ({'document': []}, 'document'),
    ({'document': []}, 'pictures'),
  ],
)
def test_a_value_of_a_wrong_kind_is_one_line(folder, base, field):
  for value in [*WRONG, 'a' * 10**5]:
    good = str if field not in (*KINDS, 'document') else KINDS.get(field, list)
    if (
      isinstance(value, good) and not isinstance(value, bool) or isinstance(value, str)
    ):
      continue
    with pytest.raises(ValueError, match=f'expected {field} to be') as raised:
      list(tiny.LIMITS.tasks({**base, field: value}, folder, **GIVEN))
    assert '\n' not in str(raised.value)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
  ('order', 'said'),
  [
    ({'prompt': 'a', 'seed': -1}, 'expected seed from 0 to 4294967295'),
    ({'prompt': 'a', 'seed': 10**30}, 'expected seed from 0'),
    ({'prompt': 'a', 'seed': 2**32 - 1, 'count': 2}, 'expected seeds up to 4294967295'),
    ({'prompt': 'a', 'count': 0}, 'expected count from 1 to'),
    ({'prompt': 'a', 'count': 10**12}, 'expected count from 1 to'),
    ({'document': [], 'pictures': -1}, 'expected pictures from 0 to'),
    ({'document': [], 'pictures': 2**40}, 'expected pictures from 0 to'),
    ({'image': 'a.png', 'strength': float('nan')}, 'expected a strength above 0'),
    ({'image': 'a.png', 'strength': float('inf')}, 'expected a strength above 0'),
    ({'image': 'a.png', 'strength': 0}, 'expected a strength above 0'),
    ({'image': 'a.png', 'strength': 10**400}, 'expected a strength above 0'),
    ({'image': 'a.png', 'strength': 0.05}, 'strength of at least 0.1 for 100 steps'),
    ({'image': 'a.png', 'strength': 1e-9}, 'strength of at least 0.1 for 100 steps'),
    ({'prompt': '\ud800'}, 'expected prompt to be text in Unicode'),
    ({'document': ['a', '\udc80']}, 'expected a text of the document to be text in U'),
    ({'prompt': 'a' * (10**6 + 1)}, 'expected prompt of at most 1000000 characters'),
    ({'prompt': 'a', '\n' * 3: 1}, 'expected fields that make a task'),
    ({'prompt': 'a', 'b' * 10**6: 1}, 'expected fields that make a task'),
    ({}, 'found none'),
    ({'document': [3]}, 'expected texts and {"image": FILE} in document, found 3'),
    ({'document': [{'image': 3}]}, 'expected image to be str, found 3'),
    ({'document': [{'image': 'a.png', 'x': 1}]}, 'expected texts and'),
    ({'document': [{'image': 'a.png'}] * 99999}, 'found 99999 pictures of 4 each'),
    ({'image': 'https://example.com/a.png'}, "for image, found 'https://example"),
    ({'image': 'gs://bucket/a.png'}, 'download it'),
    ({'image': 'a.png', 'mask': 'http://[::1]/m.png'}, 'on this machine for mask'),
    ({'document': [{'image': 'file:///x.png'}]}, 'x.png'),
    ({'image': 'data:image/png;base64,' + 'A' * 10**5}, 'on this machine for image'),
    ({'image': ''}, 'found no name'),
    ({'image': 'a\0.png'}, 'expected a path for image'),
    ({'image': '\udcff.png'}, 'expected image to be text in Unicode'),
    ({'image': 'b.png'}, 'b.png'),
  ],
)
def test_what_cannot_be_done_is_one_line(folder, order, said):
  with pytest.raises(ValueError, match='expected') as raised:
    list(tiny.LIMITS.tasks(order, folder, **GIVEN))
  assert said in str(raised.value)
  assert '\n' not in str(raised.value)
  assert len(str(raised.value)) < 600


def test_too_many_steps_are_told_from_too_little_strength(folder):
  order = {'image': 'a.png', 'strength': 0.5}
  with pytest.raises(ValueError, match='expected between 1 and 1000 sampling steps'):
    list(tiny.LIMITS.tasks(order, folder, **{**GIVEN, 'steps': 1001}))
  (task,) = tiny.LIMITS.tasks(order, folder, **{**GIVEN, 'steps': 500})
  assert task.strength == 0.5


def test_files_are_found_beside_the_orders_and_in_homes(folder, monkeypatch):
  monkeypatch.setenv('HOME', str(folder))
  for name in ('a.png', str(folder / 'a.png'), '~/a.png'):
    (task,) = tiny.LIMITS.tasks({'image': name}, folder, **GIVEN)
    assert (task.picture == tiny.picture(3)).all()


def test_a_count_is_read_and_checked_once(folder, monkeypatch):
  calls = []
  read = image_files.read_picture
  monkeypatch.setattr(
    image_files, 'read_picture', lambda *a: calls.append(a) or read(*a)
  )
  order = {'image': 'a.png', 'strength': 1, 'count': 50, 'seed': 7}
  made = list(tiny.LIMITS.tasks(order, folder, **GIVEN))
  assert [task.seed for task in made] == list(range(7, 57))
  assert len(calls) == 1


def test_what_a_model_cannot_give_is_not_asked_of_it(folder):
  for order in ({'document': ['a b']}, {'prompt': 'a b'}):
    (task,) = TEXT_ALONE.tasks(order, folder, **GIVEN)
    assert (task.kind, task.pictures) == ('interleave', 0)
    assert task.document == (tiny.text('a b', learn=False),)
  (task,) = tiny.LIMITS.tasks({'document': []}, folder, **GIVEN)
  assert task.pictures == 2


@pytest.mark.parametrize(
  ('order', 'pictures'),
  [
    ({'image': 'a.png'}, None),
    ({'image': 'a.png', 'strength': 0.5, 'prompt': 'a'}, None),
    ({'document': ['a', {'image': 'a.png'}]}, None),
    ({'document': ['a'], 'pictures': 1}, None),
    ({'document': ['a']}, 3),
    ({'prompt': 'a'}, 3),
  ],
)
def test_pictures_asked_of_a_model_without_any_are_one_line(folder, order, pictures):
  with pytest.raises(ValueError, match='the run has learnt none'):
    list(TEXT_ALONE.tasks(order, folder, **{**GIVEN, 'pictures': pictures}))


def test_seeds_reach_as_far_as_flags(folder):
  (task,) = tiny.LIMITS.tasks(
    {'prompt': 'a', 'seed': command.SEEDS[1]}, folder, **GIVEN
  )
  assert task.seed == command.SEEDS[1]
