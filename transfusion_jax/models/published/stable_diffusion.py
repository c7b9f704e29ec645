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
from transfusion_jax.models import module
from transfusion_jax.models.codecs import kl
from transfusion_jax.models.published import from_torch, weight_names

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
"""Defaults of fields that the file leaves out."""

FIXED = {
  '_class_name': 'AutoencoderKL',
  'act_fn': 'silu',
  'in_channels': 3,
  'out_channels': 3,
  'mid_block_add_attention': True,
}
"""Fields that have no choice here; a field that is left out has this value."""

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

COUNTS = {
  'layers_per_block': 64,
  'latent_channels': 4096,
  'norm_num_groups': 4096,
  'width': 2**16,
  'resolutions': 12,
}
"""The most that is believed of a file."""


def config(values: Mapping[str, Any]) -> kl.AutoencoderConfig:
  """The layout that a `config.json` describes.

  Raises:
    ValueError: ours cannot be laid out so.
  """
  for name, wanted in FIXED.items():
    if values.get(name, wanted) != wanted:
      raise ValueError(
        f'expected {name} {wanted!r} in the config.json of the weights, found '
        f'{str(values[name])[:60]!r}; only those of the Stable Diffusion family can be '
        'used'
      )
  values = DEFAULTS | dict(values)
  _check_counts(values)
  _check_scales(values)
  convs = {values['use_quant_conv'], values['use_post_quant_conv']}
  widths = values.get('block_out_channels', ())
  if len(convs) > 1 or not widths or any(width % widths[0] for width in widths):
    raise ValueError(
      'expected 1 x 1 convolutions on both sides of the latents or on none, and '
      'block_out_channels that are multiples of the first, found use_quant_conv='
      f'{values["use_quant_conv"]}, use_post_quant_conv='
      f'{values["use_post_quant_conv"]} and {widths}; use other weights'
    )
  return kl.AutoencoderConfig(
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
  """Shift and divisor of the latents, from a `config.json`.

  Diffusers takes `(z - shift_factor) * scaling_factor`, or, where mean and deviation of
  every channel are given, `(z - mean) * scaling_factor / deviation`.

  Raises:
    ValueError: they are no such numbers.
  """
  values = DEFAULTS | dict(values)
  _check_scales(values)
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
  tensors = weight_names.renewed(tensors, source)
  return from_torch.adopt(tensors, names, shapes, source=source)


def _name(path: tuple[str, ...]) -> str:
  name = '.'.join(path)
  for pattern, replacement in RULES:
    name = re.sub(pattern, replacement, name)
  return name


def _check_counts(values: Mapping[str, Any]) -> None:
  """Checks what a `config.json` says of the layout, defaults included."""
  for name in ('layers_per_block', 'latent_channels', 'norm_num_groups'):
    if not _is_count(values[name], COUNTS[name]):
      raise _wrong(name, f'a whole number from 1 to {COUNTS[name]}', values[name])
  for name in ('use_quant_conv', 'use_post_quant_conv'):
    if not isinstance(values[name], bool):
      raise _wrong(name, 'true or false', values[name])
  widths = values.get('block_out_channels', ())
  right = isinstance(widths, list | tuple) and len(widths) <= COUNTS['resolutions']
  if not right or not all(_is_count(each, COUNTS['width']) for each in widths):
    wanted = f'at most {COUNTS["resolutions"]} widths from 1 to {COUNTS["width"]}'
    raise _wrong('block_out_channels', wanted, widths)


def _check_scales(values: Mapping[str, Any]) -> None:
  """Checks the constants of the latents, defaults included."""
  channels = values['latent_channels']
  if not _is_number(values['scaling_factor']) or values['scaling_factor'] <= 0:
    raise _wrong('scaling_factor', 'a number above 0', values['scaling_factor'])
  if values['shift_factor'] is not None and not _is_number(values['shift_factor']):
    raise _wrong('shift_factor', 'a number or null', values['shift_factor'])
  for name in ('latents_mean', 'latents_std'):
    found = values[name]
    listed = isinstance(found, list | tuple) and len(found) == channels
    if found is not None and not (listed and all(map(_is_number, found))):
      raise _wrong(name, f'{channels} numbers or null', found)
  if values['latents_std'] is not None and min(values['latents_std']) <= 0:
    raise _wrong('latents_std', 'numbers above 0', values['latents_std'])


def _is_count(value: Any, most: int) -> bool:
  return type(value) is int and 1 <= value <= most


def _is_number(value: Any) -> bool:
  """True if a value is a number that float32 can hold."""
  return type(value) in (int, float) and abs(value) < 1e30


def _wrong(name: str, wanted: str, found: Any) -> ValueError:
  shown = repr(found)
  shown = shown if len(shown) <= 60 else f'{shown[:60]}...'
  return ValueError(
    f'expected {name} in the config.json of the weights to be {wanted}, found {shown}; '
    'take the one that the weights came with'
  )
