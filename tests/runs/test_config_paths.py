"""Files that a config names: `~` expands, and what is stored is absolute."""

import pathlib

import pytest

from configs import base
from transfusion_jax.data import package_files
from transfusion_jax.data.text import tokenizer_config
from transfusion_jax.evaluation import clip_score, extras, features, geneval, harness
from transfusion_jax.models.codecs import perceptual
from transfusion_jax.models.published import efficientnet
from transfusion_jax.objectives import autoencoding
from transfusion_jax.runs import config

HERE = pathlib.Path.cwd()


def tokenizer(path):
  return tokenizer_config.TokenizerConfig('sentencepiece', path, 0, 8).path


def lpips(path):
  made = base.autoencoder().objective
  made.lpips_file = path
  return config.build(autoencoding.AutoencodingConfig, made).lpips_file


def prompts(path):
  return geneval.GenevalConfig('geneval', path, 'out', 1, 0, 0).prompts


def directory(path):
  return geneval.GenevalConfig('geneval', 'prompts', path, 1, 0, 0).directory


def tasks(path):
  return harness.HarnessConfig('harness', ('a',), path, 0, 0).folder


def clip(path):
  return clip_score.ClipConfig('ViT-B-32', path).weights


def network(path):
  return features.FeaturesConfig('inception', path).weights


FIELDS = (tokenizer, lpips, prompts, directory, tasks, clip, network)


@pytest.mark.parametrize('field', FIELDS)
def test_paths_are_made_absolute(field, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert field('~/a/b') == f'{tmp_path}/a/b'
  assert field('a/../b') == str(HERE / 'b')
  assert field(str(tmp_path)) == str(tmp_path)
  with pytest.raises(ValueError, match='a NUL character'):
    field('a\0b')


@pytest.mark.parametrize('field', [lpips, prompts, tasks, clip, network])
def test_what_is_left_empty_stays_so(field):
  assert field('') == ''


def test_names_of_packages_and_urls_stay():
  for path in ('package:a/b.model', 'gs://bucket/b.model'):
    assert tokenizer(path) == path


@pytest.mark.parametrize(
  'read',
  [
    directory,
    perceptual.find,
    efficientnet.find,
    lambda path: extras.file(path, 'weights'),
    lambda path: package_files.read(path, 'a model'),
  ],
)
def test_who_knows_no_urls_says_so(read):
  with pytest.raises(ValueError, match=r'on this machine for .*, found gs://bucket/x'):
    read('gs://bucket/x')
