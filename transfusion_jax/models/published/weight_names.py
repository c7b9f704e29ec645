"""Names of an autoencoder's tensors in the files that are around.

All become those of diffusers today.

The original layout (CompVis, taming's VQGAN; Rombach et al., 2022) is that of single
files such as `vae-ft-mse-840000-ema-pruned`, Flux's `ae.safetensors` and, behind
`first_stage_model.`, of files that hold a whole Stable Diffusion. It numbers the
decoder's resolutions from the pictures to the latents and has 1 x 1 convolutions for
the matrices of attention. Diffusers before 0.18 had other names for these.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

PREFIXES = ('first_stage_model.', 'vae.', '')
"""Prefixes of an autoencoder's names in a file of several models."""

OURS = re.compile(r'(encoder|decoder|quant_conv|post_quant_conv)\.')
"""Prefixes of the names of an autoencoder."""

ORIGINAL = (
  (r'^encoder\.down\.(\d+)\.block\.', r'encoder.down_blocks.\1.resnets.'),
  (r'^encoder\.down\.(\d+)\.downsample\.', r'encoder.down_blocks.\1.downsamplers.0.'),
  (r'^decoder\.up\.(\d+)\.block\.', r'decoder.up_blocks.\1.resnets.'),
  (r'^decoder\.up\.(\d+)\.upsample\.', r'decoder.up_blocks.\1.upsamplers.0.'),
  (r'\.mid\.block_1\.', '.mid_block.resnets.0.'),
  (r'\.mid\.block_2\.', '.mid_block.resnets.1.'),
  (r'\.mid\.attn_1\.norm\.', '.mid_block.attentions.0.group_norm.'),
  (r'\.mid\.attn_1\.proj_out\.', '.mid_block.attentions.0.to_out.0.'),
  (r'\.mid\.attn_1\.([qkv])\.', r'.mid_block.attentions.0.to_\1.'),
  (r'\.nin_shortcut\.', '.conv_shortcut.'),
  (r'^(encoder|decoder)\.norm_out\.', r'\1.conv_norm_out.'),
)
"""From names of the original layout to those of diffusers."""

OLDER = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}
"""Names of attention's matrices in files of diffusers before 0.18."""

_ORIGINAL = re.compile(r'encoder\.(down|mid)\.|decoder\.(up|mid)\.')
_UP = re.compile(r'decoder\.up\.(\d{1,6})\.')


def choose(names: Collection[str]) -> list[str]:
  """The names of an autoencoder among those of a file.

  In a file of several models, and in one of the original layout, which may hold the
  discriminator of its training, everything else is left; else all names are taken.
  """
  prefix = _prefix(names)
  inside = [name for name in names if name.startswith(prefix)]
  ours = [name for name in inside if OURS.match(name.removeprefix(prefix))]
  original = any(_ORIGINAL.match(name.removeprefix(prefix)) for name in ours)
  return ours if original else inside


def renewed(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
  """Tensors under the names that diffusers gives them today.

  Args:
    tensors: those that `choose` chose.
    source: the file, for errors.

  Raises:
    ValueError: two of them get the same name.
  """
  prefix = _prefix(tensors)
  names = {name: name.removeprefix(prefix) for name in tensors}
  ups = [int(found[1]) for found in map(_UP.match, names.values()) if found]
  made: dict[str, np.ndarray] = {}
  for name, value in tensors.items():
    new = _renewed(names[name], max(ups, default=0))
    if new in made:
      raise ValueError(
        f'expected every tensor once in {source}, found {name} a second time under '
        'another name; use a file of one layout'
      )
    made[new] = value
  return made


def sizes(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, Any]:
  """Layout that a `config.json` would give, from the shapes of the tensors.

  Args:
    tensors: under the names of `renewed`.
    source: the file, for errors.

  Raises:
    ValueError: a tensor is missing.
  """
  shape = {name: value.shape for name, value in tensors.items()}
  first, last = (
    shape.get('encoder.conv_in.weight', ()),
    shape.get('decoder.conv_in.weight', ()),
  )
  widths = []
  while f'encoder.down_blocks.{len(widths)}.resnets.0.conv1.weight' in shape:
    found = shape[f'encoder.down_blocks.{len(widths)}.resnets.0.conv1.weight']
    widths.append(found[0] if found else 0)
  blocks = 0
  while f'encoder.down_blocks.0.resnets.{blocks}.conv1.weight' in shape:
    blocks += 1
  if len(first) != 4 or len(last) != 4 or not widths:
    raise ValueError(
      f'expected encoder and decoder of a Stable Diffusion autoencoder in {source}, '
      'found tensors of something else; name the file of the autoencoder'
    )
  return {
    'block_out_channels': widths,
    'layers_per_block': blocks,
    'latent_channels': last[1],
    'in_channels': first[1],
    'use_quant_conv': 'quant_conv.weight' in shape,
    'use_post_quant_conv': 'post_quant_conv.weight' in shape,
  }


def _prefix(names: Collection[str]) -> str:
  """The first of `PREFIXES` behind which there is an encoder."""
  return next(
    (each for each in PREFIXES if any(n.startswith(f'{each}encoder.') for n in names)),
    '',
  )


def _renewed(name: str, highest: int) -> str:
  """A name today; `highest` is the number of the decoder's lowest resolution."""
  name = _UP.sub(lambda found: f'decoder.up.{highest - int(found[1])}.', name, count=1)
  for pattern, replacement in ORIGINAL:
    name = re.sub(pattern, replacement, name)
  return re.sub(
    r'(attentions\.0\.)(\w+)(?=\.(weight|bias)$)',
    lambda found: found[1] + OLDER.get(found[2], found[2]),
    name,
  )
