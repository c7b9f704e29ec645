"""A tiny published autoencoder, in every layout that such files have."""

import functools
import json
import pathlib
import re
from collections.abc import Mapping

import numpy as np
from safetensors import numpy as safetensors_numpy

SIZES = {
  '_class_name': 'AutoencoderKL',
  'block_out_channels': [4, 8],
  'down_block_types': ['DownEncoderBlock2D'] * 2,
  'layers_per_block': 1,
  'norm_num_groups': 2,
  'latent_channels': 4,
  'scaling_factor': 0.5,
}
NEWER = {
  'latent_channels': 16,
  'use_quant_conv': False,
  'use_post_quant_conv': False,
  'shift_factor': 0.25,
}


def residual(name, inputs, outputs):
  shapes = {
    f'{name}.norm1.weight': (inputs,),
    f'{name}.norm1.bias': (inputs,),
    f'{name}.conv1.weight': (outputs, inputs, 3, 3),
    f'{name}.conv1.bias': (outputs,),
    f'{name}.norm2.weight': (outputs,),
    f'{name}.norm2.bias': (outputs,),
    f'{name}.conv2.weight': (outputs, outputs, 3, 3),
    f'{name}.conv2.bias': (outputs,),
  }
  if inputs != outputs:
    shapes[f'{name}.conv_shortcut.weight'] = (outputs, inputs, 1, 1)
    shapes[f'{name}.conv_shortcut.bias'] = (outputs,)
  return shapes


def layer(name, *shape):
  return {f'{name}.weight': shape, f'{name}.bias': shape[:1]}


def middle(name, width):
  shapes = residual(f'{name}.resnets.0', width, width)
  shapes |= layer(f'{name}.attentions.0.group_norm', width)
  for each in ('to_q', 'to_k', 'to_v', 'to_out.0'):
    shapes |= layer(f'{name}.attentions.0.{each}', width, width)
  return shapes | residual(f'{name}.resnets.1', width, width)


@functools.cache
def tensors(channels: int = 4, convs: bool = True, w: int = 4) -> dict[str, np.ndarray]:
  """Two resolutions of w and 2 w channels, written down from the documented layout."""
  shapes = layer('encoder.conv_in', w, 3, 3, 3)
  shapes |= residual('encoder.down_blocks.0.resnets.0', w, w)
  shapes |= layer('encoder.down_blocks.0.downsamplers.0.conv', w, w, 3, 3)
  shapes |= residual('encoder.down_blocks.1.resnets.0', w, 2 * w)
  shapes |= middle('encoder.mid_block', 2 * w) | layer('encoder.conv_norm_out', 2 * w)
  shapes |= layer('encoder.conv_out', 2 * channels, 2 * w, 3, 3)
  shapes |= layer('decoder.conv_in', 2 * w, channels, 3, 3)
  shapes |= middle('decoder.mid_block', 2 * w)
  for i, (before, after) in enumerate([(2 * w, 2 * w), (2 * w, w)]):
    shapes |= residual(f'decoder.up_blocks.{i}.resnets.0', before, after)
    shapes |= residual(f'decoder.up_blocks.{i}.resnets.1', after, after)
  shapes |= layer('decoder.up_blocks.0.upsamplers.0.conv', 2 * w, 2 * w, 3, 3)
  shapes |= layer('decoder.conv_norm_out', w) | layer('decoder.conv_out', 3, w, 3, 3)
  if convs:
    shapes |= layer('quant_conv', 2 * channels, 2 * channels, 1, 1)
    shapes |= layer('post_quant_conv', channels, channels, 1, 1)
  random = np.random.default_rng(0)
  return {k: 0.3 * random.normal(size=s).astype(np.float32) for k, s in shapes.items()}


MIDDLE = (
  ('mid_block.resnets.0', 'mid.block_1'),
  ('mid_block.resnets.1', 'mid.block_2'),
  ('mid_block.attentions.0.group_norm', 'mid.attn_1.norm'),
  ('mid_block.attentions.0.to_q', 'mid.attn_1.q'),
  ('mid_block.attentions.0.to_k', 'mid.attn_1.k'),
  ('mid_block.attentions.0.to_v', 'mid.attn_1.v'),
  ('mid_block.attentions.0.to_out.0', 'mid.attn_1.proj_out'),
  ('conv_shortcut', 'nin_shortcut'),
  ('conv_norm_out', 'norm_out'),
)


def original(found: Mapping[str, np.ndarray], prefix='') -> dict[str, np.ndarray]:
  """The same tensors as CompVis has them: two resolutions, the decoder's turned."""
  made = {}
  for name, value in found.items():
    name = re.sub(r'^encoder.down_blocks.(\d).resnets', r'encoder.down.\1.block', name)
    name = name.replace('down_blocks.0.downsamplers.0', 'down.0.downsample')
    for theirs, ours in (('0', '1'), ('1', '0')):
      name = name.replace(f'up_blocks.{theirs}.resnets', f'up.{ours}.block')
      name = name.replace(f'up_blocks.{theirs}.upsamplers.0', f'up.{ours}.upsample')
    matrix = re.search(r'attentions.*to_.*weight$', name)
    for theirs, ours in MIDDLE:
      name = name.replace(theirs, ours)
    made[prefix + name] = value[..., None, None] if matrix else value
  return made


def write(
  folder: pathlib.Path,
  found: Mapping[str, np.ndarray],
  name: str = 'diffusion_pytorch_model.safetensors',
  sizes: Mapping | None = SIZES,
) -> pathlib.Path:
  """Writes a safetensors file, and what describes it beside it; returns the file."""
  folder.mkdir(parents=True, exist_ok=True)
  safetensors_numpy.save_file(dict(found), folder / name)
  if sizes is not None:
    (folder / 'config.json').write_text(json.dumps(sizes))
  return folder / name


def write_shards(folder: pathlib.Path, found: Mapping[str, np.ndarray]) -> pathlib.Path:
  """Writes two shards and their index, which is returned."""
  places = {}
  for number, names in enumerate((sorted(found)[::2], sorted(found)[1::2]), 1):
    file = f'diffusion_pytorch_model-0000{number}-of-00002.safetensors'
    write(folder, {name: found[name] for name in names}, file)
    places |= dict.fromkeys(names, file)
  index = folder / 'diffusion_pytorch_model.safetensors.index.json'
  index.write_text(json.dumps({'metadata': {}, 'weight_map': places}))
  return index
