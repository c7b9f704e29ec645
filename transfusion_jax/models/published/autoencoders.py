"""A published autoencoder of the Stable Diffusion family, from a folder or a file."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float

from transfusion_jax.core import json_text, tensor_files
from transfusion_jax.models import module
from transfusion_jax.models.codecs import kl
from transfusion_jax.models.published import stable_diffusion, weight_names

WEIGHTS, SIZES = 'diffusion_pytorch_model.safetensors', 'config.json'

INDEX = '.safetensors.index'
"""Stands in the name of a list of shards."""

SCALES = (
  '0.18215 for Stable Diffusion 1 and 2, 0.13025 for XL, 1.5305 (and shift_factor '
  '0.0609) for 3, 0.3611 (and 0.1159) for Flux'
)
"""The constants of the family, for messages."""


@dataclasses.dataclass(frozen=True)
class Published:
  """An autoencoder of others.

  Attributes:
    layout: of it.
    params: under our names, in float32.
    shift: taken from every channel of the latents.
    scale: what they are then divided by.
    weights: the file that all was read from.
  """

  layout: kl.AutoencoderConfig
  params: module.Params
  shift: Float[np.ndarray, ' c']
  scale: Float[np.ndarray, ' c']
  weights: pathlib.Path


def read(
  place: pathlib.Path, scaling: float | None = None, shift: float | None = None
) -> Published:
  """Reads and checks all of an autoencoder.

  Args:
    place: see `find`.
    scaling: the `scaling_factor`, where there is no `config.json` beside the weights;
      it is then not looked for, and the layout follows from the weights.
    shift: the `shift_factor`, with `scaling` only.

  Raises:
    ValueError: something is missing, or not what it has to be.
  """
  weights = find(place)
  if scaling is None and shift is not None:
    raise ValueError(
      f'expected scaling_factor with shift_factor, found {shift} alone; give both, or '
      f'none with a {SIZES} beside the weights'
    )
  described = _described(weights) if scaling is None else None
  found = tensor_files.read(weights, weight_names.choose)
  tensors = weight_names.renewed(found, weights.name)
  if described is None:
    described = weight_names.sizes(tensors, weights.name)
    described |= {'scaling_factor': scaling, 'shift_factor': shift}
  layout = stable_diffusion.config(described)
  plan = module.blueprint(lambda rngs: kl.Autoencoder(rngs, layout))
  params = stable_diffusion.params(tensors, plan.shapes, source=weights.name)
  return Published(layout, params, *stable_diffusion.scale(described), weights)


def find(place: pathlib.Path) -> pathlib.Path:
  """The file with the weights: `place`, or the one in that folder.

  In a folder it is the one that diffusers writes, or a list of its shards, there or in
  the `vae` of a pipeline's folder; else the only file of weights that there is.

  Raises:
    ValueError: there is none, or more than one.
  """
  if not place.is_dir():
    if not place.is_file():
      raise ValueError(
        f'expected a folder or a file with weights, found no {place}; check the path'
      )
    return place
  folders = [folder for folder in (place, place / 'vae') if folder.is_dir()]
  for folder in folders:
    for name in (WEIGHTS, WEIGHTS.replace('.safetensors', f'{INDEX}.json')):
      if (folder / name).is_file():
        return folder / name
  for folder in reversed(folders):
    for found in _candidates(folder):
      if len(found) == 1:
        return found[0]
      if found:
        raise ValueError(
          f'expected one file of weights in {folder}, found {len(found)}: '
          f'{tensor_files.listed([each.name for each in found])}; name one of them'
        )
  raise ValueError(
    f'expected {WEIGHTS} in {place}, found no weights there or in its folder vae; name '
    'the folder or the file that holds them'
  )


def _candidates(folder: pathlib.Path) -> list[list[pathlib.Path]]:
  """Lists of shards, safetensors and files of PyTorch, shards themselves left out."""
  files = [each for each in sorted(folder.iterdir()) if each.is_file()]
  indexed = [each for each in files if INDEX in each.name and each.suffix == '.json']
  whole = [each for each in files if '-of-' not in each.name]
  return [
    indexed,
    [each for each in whole if each.suffix == '.safetensors'],
    [each for each in whole if each.suffix in tensor_files.TORCH],
  ]


def _described(weights: pathlib.Path) -> dict[str, Any]:
  """Contents of the `config.json` beside the weights."""
  file = weights.parent / SIZES
  if not file.is_file():
    raise ValueError(
      f'expected {file} beside the weights, found none; name a folder that has it, or '
      f'say by what latents are multiplied with --scaling_factor: {SCALES}'
    )
  return json_text.read_object(file)
