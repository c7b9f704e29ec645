"""Manifest beside stored latents: their autoencoder and their source.

`encode_images` writes a source again with moments of latents in place of pictures, and
`encoded.json` in the same folder. With it a run finds out whether the latents are those
that its own autoencoder would make of its own pictures.
"""

import dataclasses
import json
import posixpath
from typing import Any

from transfusion_jax.core import json_text
from transfusion_jax.data import corpus, pipeline
from transfusion_jax.data.sources import array_record, files
from transfusion_jax.data.sources import source as source_lib

MANIFEST = 'encoded.json'


@dataclasses.dataclass(frozen=True)
class Manifest:
  """Contents of `encoded.json`.

  Attributes:
    autoencoder: digest of its parameters.
    height: of the pictures.
    width: of the pictures.
    fields: that held pictures, sorted.
    source: fingerprint of what was encoded.
    files: of the set.
  """

  autoencoder: str
  height: int
  width: int
  fields: list[str]
  source: str
  files: int


def claim(folder: str, manifest: Manifest) -> None:
  """Makes a folder the place of these latents, or checks that it already is.

  Any number of processes may do so at once.

  Raises:
    ValueError: the folder holds other latents or other files of records, or nothing can
      be written there.
  """
  found = _read(folder)
  if found is None:
    if _has_records(folder):
      raise ValueError(
        f'expected {folder} to be new or to hold {MANIFEST}, found files of records '
        'without it; name another --output'
      )
    text = json.dumps(dataclasses.asdict(manifest), indent=2) + '\n'
    files.write(posixpath.join(folder, MANIFEST), text.encode())
  elif found != manifest:
    before, now = dataclasses.asdict(found), dataclasses.asdict(manifest)
    lines = [
      f'{name}: expected {value!r}, found {now[name]!r}'
      for name, value in before.items()
      if value != now[name]
    ]
    raise ValueError(
      f'expected what {folder} was begun with; {"; ".join(lines)}; name another '
      '--output, or take back the change'
    )


def check(config: pipeline.DataConfig) -> None:
  """Checks that stored latents are where they are wanted, and nowhere else.

  Raises:
    ValueError: a source holds latents instead of pictures or pictures instead of
      latents, or its latents are of pictures of another size.
  """
  if config.moments and config.images.crop != 'center':
    raise ValueError(
      "expected data.images.crop='center' with data.moments=true, found "
      f'{config.images.crop!r}: stored latents are of one crop; set it'
    )
  for name, each in config.sources.items():
    if each.form.pictures and config.moments:
      _check_latents(config, name, each)
    elif each.form.pictures:
      _check_pictures(name, each)


def check_source(config: pipeline.DataConfig, name: str) -> None:
  """Checks that a source is one to encode.

  Raises:
    ValueError: there is no such source, or it has no pictures or latents already, or
      pictures would be cropped at random.
  """
  source = config.sources.get(name)
  if source is None or not source.form.pictures:
    pictured = [name for name, each in config.sources.items() if each.form.pictures]
    raise ValueError(
      f'expected one of data.sources with pictures, {sorted(pictured)}, found {name!r};'
      ' change --source'
    )
  if config.images.crop != 'center':
    raise ValueError(
      f"expected data.images.crop='center', found {config.images.crop!r}: what is "
      'encoded once is cropped once; set --config.data.images.crop=center'
    )
  _check_pictures(name, source)


def check_autoencoder(config: pipeline.DataConfig, autoencoder: str) -> None:
  """Checks that all stored latents are of one autoencoder.

  Args:
    config: the data.
    autoencoder: digest of its parameters.

  Raises:
    ValueError: latents are of another one.
  """
  for name, each in config.sources.items():
    manifests = _manifests(each) if each.form.pictures else {}
    for folder, manifest in manifests.items():
      if manifest is not None and manifest.autoencoder != autoencoder:
        raise ValueError(
          f'expected latents of the autoencoder of the run, {autoencoder}, in '
          f'data.sources.{name}, found those of {manifest.autoencoder} in {folder}; '
          'set autoencoder.checkpoint to that one, or encode the pictures again'
        )


def _check_latents(
  config: pipeline.DataConfig, name: str, one: corpus.SourceConfig
) -> None:
  if one.kind != 'array_record':
    raise ValueError(
      f'expected data.sources.{name} as encode_images writes it, of kind '
      f"'array_record', with data.moments=true, found {one.kind!r}; encode it, or set "
      'data.moments=false'
    )
  wanted = config.images.height, config.images.width
  for folder, manifest in _manifests(one).items():
    if manifest is None:
      raise ValueError(
        f'expected {MANIFEST} beside the files of data.sources.{name} with '
        f'data.moments=true, found none in {folder}; encode the source with '
        'encode_images, or set data.moments=false'
      )
    found = manifest.height, manifest.width
    if found != wanted or not {*one.form.pictures} <= {*manifest.fields}:
      raise ValueError(
        f'expected latents of pictures of {wanted[0]} x {wanted[1]} in the fields '
        f'{sorted(one.form.pictures)} of data.sources.{name}, found {found[0]} x '
        f'{found[1]} in {manifest.fields} in {folder}; set data.images and form as '
        'they were, or encode the source again'
      )


def _check_pictures(name: str, config: corpus.SourceConfig) -> None:
  for folder, manifest in _manifests(config).items():
    if manifest is not None:
      raise ValueError(
        f'expected pictures in data.sources.{name}, found latents that encode_images '
        f'has stored in {folder}; set data.moments=true, or name the pictures instead'
      )


def _manifests(config: corpus.SourceConfig) -> dict[str, Manifest | None]:
  """For every folder with files of a source its manifest, if there is one."""
  if config.kind != 'array_record':
    return {}
  found = files.find(config.path, (array_record.SUFFIX,))
  folders = {posixpath.dirname(found.path(number)) for number in range(len(found))}
  return {folder: _read(folder) for folder in sorted(folders)}


def _has_records(folder: str) -> bool:
  try:
    files.find(folder, (array_record.SUFFIX,))
  except ValueError:
    return False
  return True


def _read(folder: str) -> Manifest | None:
  path = posixpath.join(folder, MANIFEST)
  if not files.exists(path):
    return None
  data = files.find(path, (MANIFEST,)).read(0)
  try:
    return _manifest(json_text.parse_object(data))
  except ValueError as error:
    raise ValueError(
      f'expected {path} as encode_images writes it, found something else '
      f'({source_lib.one_line(error)}); encode the source again'
    ) from error


def _manifest(values: dict[str, Any]) -> Manifest:
  """Manifest in a file; ValueError if a field has another type."""
  types = {field.name: field.type for field in dataclasses.fields(Manifest)}
  if values.keys() != types.keys():
    raise ValueError(f'expected {sorted(types)}, found {sorted(values)}')
  for name, value in values.items():
    kind = list if name == 'fields' else types[name]
    texts = value if kind is list and isinstance(value, list) else []
    if type(value) is not kind or not all(isinstance(each, str) for each in texts):
      raise ValueError(f'expected {name} of type {types[name]}, found {value!r}')
  return Manifest(**values)
