"""Autoencoders of others: every name has its place, and what does not fit is said."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import published_files
from tests.support.published_files import NEWER, SIZES, tensors
from transfusion_jax.core import tree
from transfusion_jax.models import module
from transfusion_jax.models.codecs import kl
from transfusion_jax.models.published import stable_diffusion
from transfusion_jax.runs import restore
from transfusion_jax.training import mesh


def blueprint(sizes):
  layout = stable_diffusion.config(sizes)
  return module.blueprint(lambda rngs: kl.Autoencoder(rngs, layout))


@pytest.mark.parametrize(('sizes', 'convs'), [(SIZES, True), (SIZES | NEWER, False)])
def test_every_tensor_has_a_place(sizes, convs):
  found = tensors(sizes['latent_channels'], convs)
  params = stable_diffusion.params(found, blueprint(sizes).shapes, source='a')
  placed = tree.flatten(params)
  assert len(placed) == len(found)
  # Numbers are all different: each tensor is somewhere, once.
  sums = lambda values: sorted(float(np.sum(x, dtype=np.float64)) for x in values)  # noqa: E731
  np.testing.assert_allclose(sums(placed.values()), sums(found.values()), rtol=1e-12)
  kernel = found['encoder.down_blocks.1.resnets.0.conv1.weight']
  ours = params['encoder']['levels']['1']['blocks']['0']['conv_in']['kernel']
  np.testing.assert_array_equal(ours[2, 1, 3], kernel[:, 3, 2, 1])
  query = found['decoder.mid_block.attentions.0.to_q.weight']
  ours = params['decoder']['middle']['attention']['query']['matrix']
  np.testing.assert_array_equal(ours, query.T)


def test_downsampling_pads_below_and_to_the_right():
  """A pixel of the shrunk picture sees its own 2 x 2 pixels and the next ones."""
  plan = blueprint(SIZES)
  params = stable_diffusion.params(tensors(), plan.shapes, source='a')
  model = plan.definition.bind(jax.tree.map(jnp.asarray, params))
  x = jnp.zeros((1, 8, 8, 4))
  changed = x.at[0, 4, 4].set(1.0)
  shrink = jax.jit(model.encoder.shrink[0])
  seen = jnp.abs(shrink(changed) - shrink(x)).sum(axis=(0, 3)) > 0
  np.testing.assert_array_equal(np.argwhere(seen), [[1, 1], [1, 2], [2, 1], [2, 2]])


def test_older_names_of_attention():
  renamed = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}
  older = {}
  for name, value in tensors().items():
    for new, old in renamed.items():
      name = name.replace(f'.{new}.', f'.{old}.')
    older[name] = value
  assert older.keys() != tensors().keys()
  shapes = blueprint(SIZES).shapes
  both = (stable_diffusion.params(x, shapes, source='a') for x in (older, tensors()))
  jax.tree.map(np.testing.assert_array_equal, *both)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda x: x.pop('quant_conv.bias'), 'found no quant_conv.bias'),
    (lambda x: x.update({'loss.logvar': np.ones(1)}), 'found also loss.logvar'),
    (
      lambda x: x.update({'decoder.conv_in.bias': np.ones(9)}),
      r'decoder.conv_in.bias in a of shape \(8,\), found \(9,\)',
    ),
  ],
)
def test_other_weights_are_refused(change, message):
  other = dict(tensors())
  change(other)
  with pytest.raises(ValueError, match=message):
    stable_diffusion.params(other, blueprint(SIZES).shapes, source='a')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'_class_name': 'AutoencoderTiny'}, 'AutoencoderTiny'),
    ({'mid_block_add_attention': False}, 'mid_block_add_attention True'),
    ({'use_quant_conv': False}, 'on both sides of the latents or on none'),
    ({'block_out_channels': [4, 6]}, 'multiples of the first'),
    ({'block_out_channels': []}, 'multiples of the first'),
  ],
)
def test_other_layouts_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    stable_diffusion.config(SIZES | change)


def test_scales_are_those_of_diffusers():
  z = np.random.default_rng(0).normal(size=(5, 4))
  per_channel = {'latents_mean': [1, 2, 3, 4], 'latents_std': [4.0, 3.0, 2.0, 1.0]}
  for values, wanted in (
    (SIZES, 0.5 * z),
    (SIZES | {'shift_factor': 0.25}, 0.5 * (z - 0.25)),
    (SIZES | per_channel, (z - [1, 2, 3, 4]) * 0.5 / [4.0, 3.0, 2.0, 1.0]),
  ):
    shift, scale = stable_diffusion.scale(values)
    np.testing.assert_allclose((z - shift) / scale, wanted)


@pytest.fixture
def start(environment):
  """Runs the command with flags; `program` is run in its process before that."""
  begin = 'from transfusion_jax import import_weights; '
  end = 'from transfusion_jax.core import command; command.run(import_weights.main)'

  def run(*flags, program=''):
    command = [sys.executable, '-c', f'{begin}{program}{end}', *flags]
    return subprocess.run(
      command, env=environment(), capture_output=True, text=True, check=False
    )

  return run


CONFIG = '--config=configs/transfusion_160m.py'


def test_the_command_writes_what_a_run_takes(tmp_path, start):
  """Read back as `autoencoder.checkpoint` is."""
  published_files.write(tmp_path, tensors())
  target = tmp_path / 'runs' / 'imported'
  flags = [f'--weights={tmp_path}', f'--workdir={target}', CONFIG]
  done = start(*flags)
  assert done.returncode == 0, done.stderr
  assert '4 channels for every 2 x 2 pixels' in done.stdout
  assert [each.name for each in target.parent.iterdir()] == ['imported']
  codec = restore.codec_from(target, mesh.single(), deviation=1.0)
  np.testing.assert_array_equal(codec.scale, np.full(4, 2.0))
  kernel = tensors()['decoder.conv_out.weight'].transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(codec.model.decoder.exit.kernel[...], kernel)
  before = {path: path.stat().st_mtime_ns for path in target.rglob('*')}
  again = start(*flags)
  assert again.returncode == 2
  assert 'expected a new or empty folder for --workdir' in again.stderr
  assert {path: path.stat().st_mtime_ns for path in target.rglob('*')} == before


@pytest.mark.slow
def test_the_command_is_refused_before_it_writes(tmp_path, start, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  published_files.write(tmp_path / 'vae', tensors() | {'extra': np.ones(3)})
  here = sorted(tmp_path.rglob('*'))
  target = '--workdir=~/runs/imported'
  for flags, message in (
    ((CONFIG, target), 'expected --weights=FOLDER'),
    ((CONFIG, target, '--weights=~/vae'), 'found also extra'),
    ((CONFIG, target, '--weights=gs://bucket/vae'), 'on this machine for --weights'),
    ((CONFIG, '--workdir=gs://b/vae', '--weights=~/vae'), 'machine for --workdir'),
    ((CONFIG, target, '--weights=~/vae', '--scaling_factor=nan'), 'found NaN'),
  ):
    done = start(*flags)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert 'Traceback' not in done.stderr
  assert sorted(tmp_path.rglob('*')) == here
  assert not pathlib.Path('gs:').exists()


@pytest.mark.slow
def test_a_killed_import_leaves_nothing_that_is_believed(tmp_path, start):
  published_files.write(tmp_path / 'vae', tensors())
  target = tmp_path / 'imported'
  target.mkdir()  # empty folders are taken
  flags = [f'--weights={tmp_path / "vae"}', f'--workdir={target}', CONFIG]
  killed = (
    'import os; save = import_weights._save; '
    'import_weights._save = lambda *each: (save(*each), os._exit(9)); '
  )
  assert start(*flags, program=killed).returncode == 9
  assert not any(target.iterdir())
  done = start(*flags)
  assert done.returncode == 0, done.stderr
  assert restore.autoencoder_in(target)[0].model.latent_channels == 4
