"""Autoencoders of the Stable Diffusion family, as the package diffusers saves them.

Stable Diffusion 1, 2 and XL, 3 and Flux have VQGAN's convolutional layout, which is
ours (`models.autoencoder`), under other names: `config.json` says the sizes of an
`AutoencoderKL`, and by what its latents are shifted and multiplied. The last two have
16 channels and no 1 x 1 convolutions around the latents.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from transfusion_jax.core import tree
from transfusion_jax.models import autoencoder, module, pretrained

DEFAULTS = {
  'layers_per_block': 1,
  'latent_channels': 4,
  'norm_num_groups': 32,
  'scaling_factor': 0.18215,
  'shift_factor': None,
  'latents_mean': None,
  'latents_std': None,
  'use_quant_conv': True,
  'use_post_quant_conv': True,
}
"""What a field that the file leaves out means."""

FIXED = {
  '_class_name': 'AutoencoderKL',
  'act_fn': 'silu',
  'in_channels': 3,
  'out_channels': 3,
  'mid_block_add_attention': True,
}
"""What ours has no choice of; a field that is left out has this value."""

RULES = (
  (r'^encoder\.posterior\b', 'quant_conv'),
  (r'^decoder\.latent\b', 'post_quant_conv'),
  (r'^encoder\.levels\.(\d+)\.blocks', r'encoder.down_blocks.\1.resnets'),
  (r'^decoder\.levels\.(\d+)\.blocks', r'decoder.up_blocks.\1.resnets'),
  (r'^encoder\.shrink\.(\d+)', r'encoder.down_blocks.\1.downsamplers.0.conv'),
  (r'^decoder\.enlarge\.(\d+)', r'decoder.up_blocks.\1.upsamplers.0'),
  (r'\bmiddle\.before\b', 'mid_block.resnets.0'),
  (r'\bmiddle\.after\b', 'mid_block.resnets.1'),
  (r'\bmiddle\.attention\.norm\b', 'middle.attention.group_norm'),
  (r'\bmiddle\.attention\b', 'mid_block.attentions.0'),
  (r'\b(norm|conv)_in\b', r'\g<1>1'),
  (r'\b(norm|conv)_out\b', r'\g<1>2'),
  (r'\bshortcut\b', 'conv_shortcut'),
  (r'^(encoder|decoder)\.entry\b', r'\1.conv_in'),
  (r'^(encoder|decoder)\.norm\b', r'\1.conv_norm_out'),
  (r'^(encoder|decoder)\.exit\b', r'\1.conv_out'),
  (r'\bquery\b', 'to_q'),
  (r'\bkey\b', 'to_k'),
  (r'\bvalue\b', 'to_v'),
  (r'\bout\b', 'to_out.0'),
  (r'\b(kernel|matrix|gain)$', 'weight'),
)
"""From the path of a parameter of ours to its name in the file, in this order."""

OLDER = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}
"""Names of attention's matrices in files of diffusers before 0.18."""


def config(values: Mapping[str, Any]) -> autoencoder.AutoencoderConfig:
  """The layout that a `config.json` describes.

  Raises:
    ValueError: ours cannot be laid out so.
  """
  for name, wanted in FIXED.items():
    if values.get(name, wanted) != wanted:
      raise ValueError(
        f'expected {name} {wanted!r} in the config.json of the weights, found '
        f'{values[name]!r}; only those of the Stable Diffusion family can be used'
      )
  values = DEFAULTS | dict(values)
  convs = {values['use_quant_conv'], values['use_post_quant_conv']}
  widths = values.get('block_out_channels', ())
  if len(convs) > 1 or not widths or any(width % widths[0] for width in widths):
    raise ValueError(
      'expected 1 x 1 convolutions on both sides of the latents or on none, and '
      'block_out_channels that are multiples of the first, found use_quant_conv='
      f'{values["use_quant_conv"]}, use_post_quant_conv='
      f'{values["use_post_quant_conv"]} and {widths}; use other weights'
    )
  return autoencoder.AutoencoderConfig(
    channels=widths[0],
    multipliers=tuple(width // widths[0] for width in widths),
    encoder_blocks=values['layers_per_block'],
    decoder_blocks=values['layers_per_block'] + 1,
    middle=True,
    latent_channels=values['latent_channels'],
    latent_convs=values['use_quant_conv'],
    groups=values['norm_num_groups'],
    patch=1,
  )


def scale(
  values: Mapping[str, Any],
) -> tuple[Float[np.ndarray, ' c'], Float[np.ndarray, ' c']]:
  """What the latents are shifted and divided by, from a `config.json`.

  Diffusers takes `(z - shift_factor) * scaling_factor`, or, where mean and deviation of
  every channel are given, `(z - mean) * scaling_factor / deviation`.
  """
  values = DEFAULTS | dict(values)
  channels = np.ones(values['latent_channels'])
  shift, deviation = values['latents_mean'], values['latents_std']
  shift = channels * (values['shift_factor'] or 0.0) if shift is None else shift
  deviation = channels if deviation is None else deviation
  shift, deviation = np.asarray(shift, float), np.asarray(deviation, float)
  return shift, deviation / values['scaling_factor']


def params(
  tensors: Mapping[str, np.ndarray], shapes: module.Params, *, source: str
) -> module.Params:
  """Our parameters from the tensors of a file.

  Args:
    tensors: by their names in the file.
    shapes: nested dict of the parameters' `jax.ShapeDtypeStruct`s.
    source: the file, for errors.

  Raises:
    ValueError: a tensor is missing, superfluous or of another shape.
  """
  names = {path: _name(path) for path in tree.flatten(shapes)}
  tensors = {_renewed(name): value for name, value in tensors.items()}
  return pretrained.adopt(tensors, names, shapes, source=source)


def _name(path: tuple[str, ...]) -> str:
  name = '.'.join(path)
  for pattern, replacement in RULES:
    name = re.sub(pattern, replacement, name)
  return name


def _renewed(name: str) -> str:
  return re.sub(
    r'(attentions\.0\.)(\w+)(?=\.(weight|bias)$)',
    lambda found: found[1] + OLDER.get(found[2], found[2]),
    name,
  )
