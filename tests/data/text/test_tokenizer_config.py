"""From a config to a tokenizer, and what is said of a path that leads nowhere."""

import builtins
import json
import subprocess
import sys

import pytest

from transfusion_jax.data import package_files
from transfusion_jax.data.text import tokenizer_config, tokenizers

MODEL = 'package:mistral_common/data/tokenizer.model.v1'


def config(kind: str, path='') -> tokenizer_config.TokenizerConfig:
  return tokenizer_config.TokenizerConfig(kind, str(path), reserved=3, multiple=64)


@pytest.mark.parametrize(
  ('kind', 'path', 'base'),
  [('words', '', 2), ('bytes', '', 256), ('sentencepiece', MODEL, 32000)],
)
def test_kinds(kind, path, base):
  made = tokenizer_config.make(config(kind, path), ('blue', 'red'))
  assert isinstance(made, tokenizers.Tokenizer)
  assert (made.base_size, made.used_size) == (base, base + 8)
  assert made.vocab_size % 64 == 0
  assert made.decode(made.encode('red blue')) == 'red blue'


def test_a_tokenizer_json(tmp_path):
  path = tmp_path / 'tokenizer.json'
  model = {'type': 'WordLevel', 'vocab': {'blue': 0, 'red': 4}, 'unk_token': 'red'}
  path.write_text(json.dumps({'model': model}))
  made = tokenizer_config.make(config('hugging_face', path), ())
  assert made.base_size == 5  # ids with gaps
  assert made.encode('blue') == [0]


@pytest.mark.parametrize(
  ('kind', 'path'),
  [('words', 'a'), ('bytes', 'a'), ('sentencepiece', ''), ('hugging_face', '')],
)
def test_a_path_goes_with_a_file(kind, path):
  with pytest.raises(ValueError, match=f"found kind='{kind}' and path='{path}'; set"):
    config(kind, path)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (None, r'found .*/model: No such file.*; check the path'),
    (b'', r'found .*/model: an empty file'),
    (b'hello', r'/model: expected a .*, found 5 bytes'),
  ],
)
@pytest.mark.parametrize('kind', ['sentencepiece', 'hugging_face'])
def test_bad_files(tmp_path, kind, content, message):
  path = tmp_path / 'model'
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    tokenizer_config.make(config(kind, path), ())
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('package:not_there/a.model', "'not_there' not installed; pip install not-there"),
    ('package:not.there/a.model', 'pip install not.there'),
    ('package:/a.model', "found '' not installed"),
    ('package:json.py', 'pip install json.py'),
    ('package:os/a.model', "found 'os' not installed"),  # a module, no package
    ('package:json/none.model', 'No such file or directory; check the path'),
    ('package:json', 'Is a directory; check the path'),
  ],
)
def test_bad_packages(name, message):
  with pytest.raises(ValueError, match=message):
    package_files.read(name, 'a model')


def test_a_package_is_not_imported():
  program = (
    'import sys; from transfusion_jax.data import package_files; '
    f'assert package_files.read({MODEL!r}, "a model"); '
    'assert "mistral_common" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', program], check=True)


@pytest.mark.parametrize('kind', ['sentencepiece', 'hugging_face'])
def test_a_missing_extra(monkeypatch, tmp_path, kind):
  real = builtins.__import__

  def without(name, *arguments):
    if name in ('sentencepiece', 'tokenizers'):
      raise ModuleNotFoundError(name=name)
    return real(name, *arguments)

  for name in ('sentence_pieces', 'hugging_face'):
    monkeypatch.delitem(sys.modules, f'transfusion_jax.data.text.{name}', raising=False)
    monkeypatch.delattr(f'transfusion_jax.data.text.{name}', raising=False)
  monkeypatch.setattr(builtins, '__import__', without)
  path = tmp_path / 'model'
  path.write_bytes(b'any')
  with pytest.raises(ValueError, match=r"extra 'text', found no \w+; pip install"):
    tokenizer_config.make(config(kind, path), ())
