"""Work directories of another schema, and old names: one line, whatever opens them."""

import dataclasses
import importlib.util
import pkgutil
import types
import typing

import pytest

from configs import emoji_scenes
from transfusion_jax.core import renamed, sealed_json
from transfusion_jax.runs import (
  config,
  preflight,
  restore,
  run_report,
  stages,
)
from transfusion_jax.training import mesh, warm_start, workdir

OTHERS = {'none': {}, '1': {'version': 1}, '3': {'version': 3}}
"""What stands in place of the version, by what is said of it."""


def parsed(**autoencoder) -> config.TransfusionRun:
  page = emoji_scenes.get_config()
  page.autoencoder.update(**autoencoder)
  return config.parse(page)


WAYS = {
  'train': lambda place: stages.check(place, parsed()),
  'train, going on': lambda place: stages.claim(place, parsed()),
  'sample and demo': restore.run_in,
  'evaluate': restore.read_config,
  'report': run_report.gathered,
  'sweep': workdir.Workdir.check_version,
}
"""From a mixed run."""

AUTOENCODER_WAYS = {
  'autoencoder.checkpoint': lambda place: preflight.check(
    parsed(checkpoint=str(place.root))
  ),
  'encode_images': lambda place: restore.codec_from(
    place.root, mesh.single(), deviation=1.0
  ),
  'sample, elsewhere': lambda place: restore.transfusion(
    parsed(checkpoint=str(place.root)), workdir.Workdir(place.root.parent)
  ),
  'sample, inside': lambda place: restore.transfusion(
    parsed(), workdir.Workdir(place.root.parent)
  ),
  'train, inside': lambda place: stages.check(
    workdir.Workdir(place.root.parent), parsed()
  ),
  'start.checkpoint': lambda place: preflight.check_start(
    dataclasses.replace(
      parsed(), start=warm_start.StartConfig(str(place.root), -1, 'own')
    ),
    workdir.Workdir(place.root.parent / 'new'),
  ),
}
"""From its autoencoder, which lies in the folder `autoencoder`."""


@pytest.mark.parametrize('said', OTHERS)
@pytest.mark.parametrize('way', [*WAYS, *AUTOENCODER_WAYS])
def test_another_version_is_refused_in_one_line(tmp_path, way, said):
  run, place = parsed(), workdir.Workdir(tmp_path / 'autoencoder')
  act = WAYS.get(way) or AUTOENCODER_WAYS[way]
  section = run if way in WAYS else run.autoencoder.run
  place.root.mkdir()
  sealed_json.write(place.config, {**OTHERS[said], **config.to_dict(section)})
  sealed_json.write(place.latents, {'shift': [0.0], 'scale': [1.0]})
  before = sorted(tmp_path.rglob('*')), place.config.read_bytes()
  with pytest.raises(ValueError) as error:
    act(place)
  assert str(error.value) == (
    f'{place.config}: expected schema version {workdir.SCHEMA}, found {said}; start a '
    'new work directory, or use the release that wrote it'
  )
  assert (sorted(tmp_path.rglob('*')), place.config.read_bytes()) == before


def test_the_version_is_no_field_of_the_config(tmp_path):
  place, run = workdir.Workdir(tmp_path), parsed()
  place.claim(config.to_dict(run), {})
  assert sealed_json.read(place.config)['version'] == workdir.SCHEMA
  assert 'version' not in restore.read_config(place)
  place.claim(config.to_dict(run), {})
  assert restore.run_in(place) == run


@pytest.fixture
def names(monkeypatch):
  """Old names of things that are there today."""
  fields = {
    'data.packed': 'data.rows',
    'data.sources.*.format': 'data.sources.*.kind',
    'evaluators.*.asked': 'evaluators.*.prompts',
    'latent': 'autoencoder',
  }
  monkeypatch.setattr(renamed, 'FIELDS', fields)
  modules = {'transfusion_jax.settings': 'transfusion_jax.runs.config'}
  monkeypatch.setattr(renamed, 'MODULES', modules)


@pytest.mark.parametrize(
  ('old', 'new'),
  [
    ('data.packed', 'data.rows'),
    ('autoencoder.run.data.packed', 'autoencoder.run.data.rows'),
    ('data.sources.my-own.format', 'data.sources.my-own.kind'),
    ('evaluation.evaluators.a.asked', 'evaluation.evaluators.a.prompts'),
    ('latent.deviation', 'autoencoder.deviation'),
    *(('packed', ''), ('mydata.packed', ''), ('data.packed_more', '')),
    *(('data.rows', ''), ('data.sources.a.b.format', '')),
  ],
)
def test_an_old_field_has_a_new_name(names, old, new):
  assert renamed.field(old) == new


def test_an_old_module_has_a_new_name(names):
  assert renamed.module('transfusion_jax.settings') == 'transfusion_jax.runs.config'
  assert renamed.module('transfusion_jax.settings.A') == 'transfusion_jax.runs.config.A'
  assert renamed.module('transfusion_jax.settings_too') == ''


def test_old_fields_are_told_with_their_new_names_alone(names):
  values = config.to_dict(parsed())
  values['data']['packed'] = values['data'].pop('rows')
  values['data']['sources']['scenes']['format'] = 'x'
  values['data']['extra'] = 1
  with pytest.raises(ValueError) as error:
    config.from_dict(values)
  assert str(error.value).split('; ') == [
    *('expected no field data.extra, found one', 'remove it'),
    *('expected data.rows, found its old name data.packed', 'rename it'),
    'expected data.sources.scenes.kind, found its old name data.sources.scenes.format',
    'rename it',
  ]


def paths_of(hint: typing.Any, before: str) -> set[str]:
  """Every field of a section, and of those in it, with dots; `*` where users name."""
  if typing.get_origin(hint) is dict:
    return paths_of(typing.get_args(hint)[1], f'{before}.*')
  if isinstance(hint, types.UnionType):
    return set().union(*(paths_of(each, before) for each in typing.get_args(hint)))
  if not dataclasses.is_dataclass(hint):
    return {before}
  found = {before}
  for name, inner in typing.get_type_hints(hint).items():
    found |= paths_of(inner, f'{before}.{name}')
  return found


def test_tables_of_old_names_lead_to_what_is_there():
  known = paths_of(config.Run, '')
  for old, new in renamed.FIELDS.items():
    assert any(path.endswith(f'.{new}') for path in known), new
    assert not any(path.endswith(f'.{old}') for path in known), old
  for old, new in renamed.MODULES.items():
    assert pkgutil.resolve_name(new), new
    assert not found_module(old), old


def found_module(name: str) -> bool:
  """Whether there is such a module."""
  try:
    return importlib.util.find_spec(name) is not None
  except ModuleNotFoundError:  # nor a package around it
    return False
