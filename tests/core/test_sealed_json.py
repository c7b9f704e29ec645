"""Tests of `core.sealed_json`: every changed bit is found, wherever it is."""

import json

import pytest

from transfusion_jax.core import sealed_json

VALUE = {'psnr': 27.25, 'shift': [0.5, -1.0], 'nested': {'a': 'ü\n"x"'}, 'none': None}


def flips(data: bytes):
  for at in range(len(data)):
    for bit in range(8):
      yield data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


def test_a_file_is_read_back_and_is_plain_json(tmp_path):
  path = tmp_path / 'a.json'
  sealed_json.write(path, VALUE)
  assert sealed_json.read(path) == VALUE
  plain = json.loads(path.read_text())
  assert plain.pop('sha256')
  assert plain == VALUE
  assert [each.name for each in tmp_path.iterdir()] == ['a.json']


def test_every_flipped_bit_of_a_file_is_found(tmp_path):
  path = tmp_path / 'a.json'
  sealed_json.write(path, VALUE)
  for changed in flips(path.read_bytes()):
    path.write_bytes(changed)
    with pytest.raises(sealed_json.Damaged, match=r'a\.json as it was written'):
      sealed_json.read(path)


@pytest.mark.parametrize('text', ['', '[]', '5', '{}', '{"a": 1}', '[' * 9999])
def test_what_was_never_sealed_is_damaged(tmp_path, text):
  path = tmp_path / 'a.json'
  path.write_text(text)
  with pytest.raises(sealed_json.Damaged):
    sealed_json.read(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
  with pytest.raises(sealed_json.Damaged, match='No such file'):
    sealed_json.read(tmp_path / 'a.json')
  with pytest.raises(sealed_json.Damaged, match='directory'):
    sealed_json.read(tmp_path)


def test_every_flipped_bit_and_every_cut_of_a_line_is_found():
  line = sealed_json.line(VALUE)
  assert line.endswith(b'\n')
  assert line.count(b'\n') == 1
  data = line[:-1]
  assert sealed_json.read_line(data) == VALUE
  assert {k: v for k, v in json.loads(data).items() if k != 'crc'} == VALUE
  for changed in (*flips(data), *(data[:n] for n in range(len(data)))):
    with pytest.raises(sealed_json.Damaged):
      sealed_json.read_line(changed)
