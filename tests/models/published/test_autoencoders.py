"""Published autoencoders, from whatever layout and file they come in."""

import json
import os
import random
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest

from tests.support import published_files, torch_files
from tests.support.published_files import NEWER, SIZES, tensors
from transfusion_jax.core import tree
from transfusion_jax.models.published import (
  autoencoders,
  stable_diffusion,
  weight_names,
)

OTHERS = {
  'model.diffusion_model.out.weight': np.ones(2, np.float32),
  'cond_stage_model.logit_scale': np.ones((), np.float32),
  'model_ema.decay': np.ones((), np.float32),
}
"""What else a file of a whole Stable Diffusion holds."""

LOSS = {'loss.logvar': np.ones((), np.float32), 'loss.discriminator.a': np.ones(3)}
"""What else the training of an autoencoder left in its file."""

USUAL = SIZES | {'norm_num_groups': 32, 'block_out_channels': [32, 64]}


def check_equal(found: autoencoders.Published, wanted: autoencoders.Published) -> None:
  """Layout, constants and every bit of the parameters."""
  assert found.layout == wanted.layout
  jax.tree.map(np.testing.assert_array_equal, found.params, wanted.params)
  np.testing.assert_array_equal(found.shift, wanted.shift)
  np.testing.assert_array_equal(found.scale, wanted.scale)


@pytest.fixture
def plain(tmp_path) -> autoencoders.Published:
  """Read from one file as diffusers writes it."""
  published_files.write(tmp_path / 'plain', tensors())
  return autoencoders.read(tmp_path / 'plain')


def beside(folder, write) -> None:
  """Makes a folder with the description and what `write` writes."""
  folder.mkdir()
  (folder / 'config.json').write_text(json.dumps(SIZES), 'utf-8-sig')
  write(folder)


LAYOUTS = {
  'shards': lambda f: published_files.write_shards(f, tensors()),
  'original': lambda f: published_files.write(
    f, published_files.original(tensors()) | LOSS, 'vae.safetensors'
  ),
  'whole': lambda f: published_files.write(
    f,
    published_files.original(tensors(), 'first_stage_model.') | OTHERS,
    'v1-5-pruned.safetensors',
  ),
  'comfy': lambda f: published_files.write(
    f, published_files.original(tensors(), 'vae.') | OTHERS, 'all.safetensors'
  ),
  'torch': lambda f: torch_files.write(
    f / 'diffusion_pytorch_model.bin', tensors(), zipped=True
  ),
  'ckpt': lambda f: torch_files.write(
    f / 'model.ckpt',
    published_files.original(tensors(), 'first_stage_model.') | OTHERS,
    zipped=True,
    beside={'callbacks': {json.JSONDecoder: {'best': 1}}},
  ),
  'old ckpt': lambda f: torch_files.write(
    f / 'model.pt', published_files.original(tensors()) | LOSS, beside={}
  ),
  'variant': lambda f: published_files.write(
    f, tensors(), 'diffusion_pytorch_model.fp32.safetensors'
  ),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_gives_the_same_bits(tmp_path, plain, layout):
  beside(tmp_path / 'other', LAYOUTS[layout])
  check_equal(autoencoders.read(tmp_path / 'other'), plain)


def test_names_of_the_original_layout():
  """As Stable Diffusion's own files have them."""
  names = published_files.original(tensors(), 'first_stage_model.')
  for name, shape in {
    'encoder.down.0.block.0.norm1.weight': (4,),
    'encoder.down.0.downsample.conv.weight': (4, 4, 3, 3),
    'encoder.down.1.block.0.nin_shortcut.weight': (8, 4, 1, 1),
    'encoder.mid.attn_1.q.weight': (8, 8, 1, 1),
    'encoder.mid.attn_1.proj_out.bias': (8,),
    'decoder.mid.block_2.conv2.weight': (8, 8, 3, 3),
    'decoder.up.1.upsample.conv.weight': (8, 8, 3, 3),
    'decoder.up.0.block.0.nin_shortcut.weight': (4, 8, 1, 1),
    'decoder.norm_out.weight': (4,),
    'quant_conv.weight': (8, 8, 1, 1),
  }.items():
    assert names[f'first_stage_model.{name}'].shape == shape
  chosen = weight_names.choose([*names, *OTHERS])
  assert set(chosen) == set(names)


@pytest.mark.parametrize('folder', ['', 'vae'])
def test_a_pipelines_folder(tmp_path, plain, folder):
  """Its `vae` is taken, whatever lies beside it."""
  place = tmp_path / 'pipeline'
  published_files.write(place / 'vae', tensors())
  published_files.write(place, OTHERS, 'v1-5-pruned.safetensors', None)
  published_files.write(place / 'unet', OTHERS)
  check_equal(autoencoders.read(place / folder), plain)


@pytest.mark.parametrize('convs', [True, False])
@pytest.mark.parametrize('turned', [False, True], ids=['diffusers', 'original'])
def test_without_a_description_the_layout_follows_from_the_weights(
  tmp_path, convs, turned
):
  wide = tensors(convs=convs, w=32)
  found = published_files.original(wide) if turned else wide
  newer = {'use_quant_conv': convs, 'use_post_quant_conv': convs}
  sizes = USUAL | newer | {'scaling_factor': 1.5, 'shift_factor': 0.25}
  published_files.write(tmp_path / 'told', wide, sizes=sizes)
  alone = published_files.write(tmp_path / 'alone', found, 'ae.safetensors', None)
  with pytest.raises(ValueError, match=r'config\.json beside .* --scaling_factor: 0'):
    autoencoders.read(alone)
  with pytest.raises(ValueError, match='expected scaling_factor with shift_factor'):
    autoencoders.read(alone, shift=0.25)
  check_equal(autoencoders.read(alone, 1.5, 0.25), autoencoders.read(tmp_path / 'told'))


def test_what_is_no_autoencoder(tmp_path):
  alone = published_files.write(tmp_path, OTHERS, 'unet.safetensors', None)
  with pytest.raises(ValueError, match='found tensors of something else'):
    autoencoders.read(alone, 0.18215)
  for name in (
    'encoder.conv_in.weight',
    'encoder.down_blocks.0.resnets.0.conv1.weight',
  ):
    less = {k: v for k, v in tensors().items() if k != name}
    with pytest.raises(ValueError, match='of something else'):
      autoencoders.read(
        published_files.write(tmp_path, less, 'a.safetensors', None), 1.0
      )


def test_two_layouts_in_one_file(tmp_path):
  both = tensors() | published_files.original(tensors())
  published_files.write(tmp_path, both)
  with pytest.raises(ValueError, match='found .* a second time under another name'):
    autoencoders.read(tmp_path)


@pytest.mark.parametrize(
  ('files', 'message'),
  [
    ((), 'found no weights there or in its folder vae'),
    (('model.gguf', 'a-00001-of-00002.safetensors'), 'found no weights there'),
    (
      ('b.fp16.safetensors', 'b.non_ema.safetensors'),
      r'found 2: b\.fp16\.safetensors, b\.non_ema\.safetensors; name one',
    ),
  ],
)
def test_a_folder_that_does_not_say_which(tmp_path, files, message):
  for name in files:
    (tmp_path / name).touch()
  with pytest.raises(ValueError, match=message):
    autoencoders.find(tmp_path)


def test_places_that_are_none(tmp_path):
  (tmp_path / 'vae').symlink_to(tmp_path)  # a link to itself ends
  with pytest.raises(ValueError, match='found no weights there'):
    autoencoders.find(tmp_path)
  os.mkfifo(tmp_path / 'pipe.safetensors')
  for name in ('none', 'pipe.safetensors'):
    with pytest.raises(ValueError, match='found no .*; check the path'):
      autoencoders.find(tmp_path / name)


@pytest.mark.parametrize(
  'dtype', [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.float64]
)
def test_weights_of_other_precision(tmp_path, dtype):
  """Read as what their numbers are."""
  rounded = {name: value.astype(dtype) for name, value in tensors().items()}
  entries, data = {}, b''
  kinds = {'float16': 'F16', 'bfloat16': 'BF16', 'float64': 'F64'}
  for name, value in rounded.items():
    place = [len(data), len(data) + value.nbytes]
    kind = kinds.get(value.dtype.name, 'F8_E4M3')
    entries[name] = {'dtype': kind, 'shape': value.shape, 'data_offsets': place}
    data += value.tobytes()
  published_files.write(tmp_path, {})
  text = json.dumps(entries).encode()
  (tmp_path / autoencoders.WEIGHTS).write_bytes(
    len(text).to_bytes(8, 'little') + text + data
  )
  found = autoencoders.read(tmp_path)
  kernel = found.params['decoder']['exit']['kernel']
  assert kernel.dtype == np.float32
  wanted = rounded['decoder.conv_out.weight'].astype(np.float32)
  np.testing.assert_array_equal(kernel, wanted.transpose(2, 3, 1, 0))


@pytest.mark.parametrize(
  ('value', 'message'),
  [
    (np.array([np.nan, 1, np.inf], np.float32), 'NaN or infinity in 2 of 3'),
    (np.array([1e300, 1, 1]), 'NaN or infinity in 1 of 3'),
    (np.ones(3, np.int8), 'in floating point, found int8; weights of integers'),
    (np.ones(3, bool), 'in floating point, found bool'),
    (np.ones(4, np.float32), r'of shape \(3,\), found \(4,\)'),
  ],
)
def test_numbers_that_are_none(tmp_path, value, message):
  published_files.write(tmp_path, tensors() | {'decoder.conv_out.bias': value})
  with pytest.raises(ValueError, match=f'decoder.conv_out.bias in .*{message}'):
    autoencoders.read(tmp_path)


@pytest.mark.parametrize('content', [b'', b'[]', b'5', b'null', b'{', b'[' * 9999])
def test_a_description_that_is_none(tmp_path, content):
  published_files.write(tmp_path, tensors())
  (tmp_path / 'config.json').write_bytes(content)
  with pytest.raises(ValueError, match=r'config\.json: expected .*JSON') as error:
    autoencoders.read(tmp_path)
  assert '\n' not in str(error.value)


ODD = (None, True, -1, 0, 10**9, 10**400, 1e308, 'x', '', [], {}, [1], [[]], [4, 8, 16])


def test_anything_in_a_description_is_one_line():
  """Every field and pairs of fields of wrong types and sizes: built, or refused."""
  source, outcomes = random.Random(0), set()
  names = [*stable_diffusion.DEFAULTS, *stable_diffusion.FIXED, 'block_out_channels']
  changes = [{name: value} for name in names for value in (*ODD, float('nan'))]
  changes += [
    {source.choice(names): source.choice(ODD) for _ in range(2)} for _ in range(100)
  ]
  for change in changes:
    try:
      stable_diffusion.config(SIZES | change)
      stable_diffusion.scale(SIZES | change)
      outcomes.add('built')
    except ValueError as error:
      long = '\n' in str(error) or len(str(error)) > 400
      outcomes.add(str(error) if long else 'refused')
  assert outcomes == {'built', 'refused'}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'layers_per_block': '1'}, "layers_per_block .* whole number .* found '1'"),
    ({'layers_per_block': 10**6}, 'layers_per_block .* from 1 to 64, found 1000000'),
    ({'latent_channels': 4.0}, 'latent_channels .* found 4.0'),
    ({'norm_num_groups': True}, 'norm_num_groups .* found True'),
    ({'block_out_channels': 4}, 'block_out_channels .* found 4'),
    ({'block_out_channels': ['4', 8]}, 'block_out_channels'),
    ({'use_quant_conv': 'yes'}, "use_quant_conv .* true or false, found 'yes'"),
    ({'scaling_factor': 0}, 'scaling_factor .* above 0, found 0'),
    ({'scaling_factor': '0.5'}, 'scaling_factor'),
    ({'shift_factor': [1]}, 'shift_factor .* a number or null'),
    ({'latents_mean': [1, 2]}, 'latents_mean .* 4 numbers or null'),
    ({'latents_std': [1, 2, 0, 3]}, 'latents_std .* above 0'),
  ],
)
def test_wrong_fields_of_a_description(change, message):
  with pytest.raises(ValueError, match=f'expected {message}'):
    stable_diffusion.config(SIZES | change)


def test_shards_with_a_variant_in_the_name_of_their_index(tmp_path, plain):
  index = published_files.write_shards(tmp_path / 'a', tensors())
  index.rename(index.with_name('diffusion_pytorch_model.safetensors.index.fp16.json'))
  check_equal(autoencoders.read(tmp_path / 'a'), plain)
  shutil.rmtree(tmp_path / 'a')


def test_newer_layouts_have_no_convolutions_around_the_latents(tmp_path):
  found = tensors(16, convs=False)
  published_files.write(tmp_path / 'a', found, sizes=SIZES | NEWER)
  turned = published_files.original(found)
  published_files.write(tmp_path / 'b', turned, 'ae.safetensors', SIZES | NEWER)
  both = [autoencoders.read(tmp_path / name) for name in 'ab']
  check_equal(*both)
  assert len(tree.flatten(both[0].params)) == len(found)
