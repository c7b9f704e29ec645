"""What is found before any device works; commands say it in `test_commands`."""

import dataclasses
import types

import jax
import pytest

from configs import emoji_autoencoder, emoji_scenes
from transfusion_jax.runs import config, preflight, restore
from transfusion_jax.training import mesh


def emoji_run(*, row_length: int, **axes: int) -> config.TransfusionRun:
  run = config.parse(emoji_scenes.get_config())
  sizes = mesh.MeshConfig(**{'data': 1, 'fsdp': -1, 'sequence': 1, 'tensor': 1, **axes})
  return dataclasses.replace(
    run, mesh=sizes, data=dataclasses.replace(run.data, row_length=row_length)
  )


def test_rows_divide_into_two_chunks_for_every_device_along_them():
  devices = jax.devices()
  preflight.check_devices(emoji_run(row_length=160, sequence=4), devices)
  preflight.check_devices(emoji_run(row_length=164), devices)
  with pytest.raises(ValueError, match='8 chunks.*row_length=164'):
    preflight.check_devices(emoji_run(row_length=164, sequence=4), devices)
  rest = emoji_run(row_length=168, data=1, fsdp=1, sequence=-1)
  with pytest.raises(ValueError, match='16 chunks.*row_length=168'):
    preflight.check_devices(rest, devices)


def test_a_mesh_of_another_size_is_found():
  with pytest.raises(ValueError, match='a mesh of 8 devices'):
    preflight.check_devices(emoji_run(row_length=160, data=3), jax.devices())


def test_rows_divide_over_the_devices():
  run = emoji_run(row_length=160)
  uneven = dataclasses.replace(run, data=dataclasses.replace(run.data, rows=12))
  with pytest.raises(ValueError, match=r'divide by 8 \(8 devices, .* found 12'):
    preflight.check_devices(uneven, jax.devices())
  tensor = mesh.MeshConfig(data=1, fsdp=-1, sequence=1, tensor=2)
  preflight.check_devices(dataclasses.replace(uneven, mesh=tensor), jax.devices())
  two = dataclasses.replace(run.train, microbatches=2)
  halves = dataclasses.replace(run, train=two)
  with pytest.raises(ValueError, match='divide by 16 .* 2 micro-batches.* found 8'):
    preflight.check_devices(halves, jax.devices())


def test_an_autoencoder_that_is_there_already_need_not_suit_the_devices():
  run = emoji_run(row_length=160)
  stage = run.autoencoder
  data = dataclasses.replace(stage.run.data, rows=12)
  odd = dataclasses.replace(stage, run=dataclasses.replace(stage.run, data=data))
  with pytest.raises(ValueError, match='found 12'):
    preflight.check_devices(dataclasses.replace(run, autoencoder=odd), jax.devices())
  trained = dataclasses.replace(odd, checkpoint='somewhere')
  preflight.check_devices(dataclasses.replace(run, autoencoder=trained), jax.devices())


def test_an_autoencoder_of_other_latents_is_found(monkeypatch):
  run = emoji_run(row_length=160)
  model = run.autoencoder.run.model
  stage = dataclasses.replace(run.autoencoder, checkpoint='somewhere')
  run = dataclasses.replace(run, autoencoder=stage)
  for changed, fits in ((model, True), ({'latent_channels': 4}, False)):
    given = model if fits else dataclasses.replace(model, **changed)
    there = types.SimpleNamespace(model=given)
    monkeypatch.setattr(restore, 'autoencoder_in', lambda _, there=there: (there, {}))
    if fits:
      preflight.check(run)
    else:
      with pytest.raises(
        ValueError, match='16 channels from .*somewhere, found .* and 4'
      ):
        preflight.check(run)


def test_weights_of_lpips_are_looked_for_before_training_alone(tmp_path):
  page = emoji_autoencoder.get_config('perceptual')
  page.objective.lpips_file = str(tmp_path / 'none.pth')
  run = config.parse(page)
  preflight.check(run)
  with pytest.raises(ValueError, match='no-deps stlpips-pytorch'):
    preflight.check_files(run)
  mixed = emoji_run(row_length=160)
  preflight.check_files(mixed)
  stage = dataclasses.replace(mixed.autoencoder, run=run)
  with pytest.raises(ValueError, match='no-deps stlpips-pytorch'):
    preflight.check_files(dataclasses.replace(mixed, autoencoder=stage))
