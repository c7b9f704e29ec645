"""Encoding once: the command, stopped and shared out, and training from its files."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, emoji_scenes
from transfusion_jax.core import sealed_json
from transfusion_jax.data import corpus
from transfusion_jax.data.images import image_files
from transfusion_jax.data.latents import encoding
from transfusion_jax.data.latents import manifest as manifest_lib
from transfusion_jax.data.sources import array_record
from transfusion_jax.runs import build, config, preflight, restore
from transfusion_jax.runs import input as input_lib
from transfusion_jax.training import checkpoint, mesh, state, workdir

ROOT = pathlib.Path(__file__).parent.parent
COUNT, SIDE, FILES, NAME = 40, 32, 4, 'scenes'
SHIFT, SCALE = 0.25, 2.0

FLOAT16 = 2.0**-11
"""Of a number, the most that rounding to float16 changes it by."""

NOISE = 1e-5
"""What sums in another order change; the smallest float16 steps are below it."""


def settings(path, autoencoder, kind='folder', **changes) -> dict[str, object]:
  """What differs from configs/emoji_scenes.py: a small run on other data."""
  return {
    'data.sources.scenes.kind': kind,
    'data.sources.scenes.path': str(path),
    'data.tokenizer.kind': 'bytes',
    'data.row_length': 96,
    'data.image_slots': 4,
    'autoencoder.checkpoint': str(autoencoder),
    'autoencoder.run.model.channels': 8,
    'autoencoder.run.model.multipliers': (1,),
    'autoencoder.run.model.patch': 8,
    'evaluation.every': -1,
    **{f'data.{name}': value for name, value in changes.items()},
  }


def parsed(*arguments, **options) -> config.TransfusionRun:
  page = emoji_scenes.get_config()
  with page.unlocked():
    for name, value in settings(*arguments, **options).items():
      page.update_from_flattened_dict({name: value})
  return config.parse(page)


def untrained(directory: pathlib.Path, seed: int) -> pathlib.Path:
  """The work directory of an autoencoder with random parameters."""
  run = parsed(directory, directory).autoencoder.run
  place = workdir.Workdir(directory)
  place.claim(config.to_dict(run), {})
  random = np.random.default_rng(seed)
  params = jax.tree.map(
    lambda leaf: jnp.asarray(random.normal(0.1, 0.2, leaf.shape), leaf.dtype),
    build.parts(run).blueprint.shapes,
  )
  step, key = jnp.int32(1), jax.random.key(0)
  with checkpoint.Checkpoints(place.checkpoints, checkpoint.ONE) as checkpoints:
    checkpoints.save(state.TrainState(step, {}, params, {}, key, jnp.zeros(())), {})
  constants = {'shift': [SHIFT] * 16, 'scale': [SCALE] * 16, 'psnr': 0.0}
  sealed_json.write(place.latents, constants)
  return directory


@pytest.fixture(scope='module')
def autoencoder(tmp_path_factory) -> pathlib.Path:
  return untrained(tmp_path_factory.mktemp('autoencoder'), seed=0)


def png(number: int) -> bytes:
  """A picture that takes a while to decode."""
  small = np.random.default_rng(number).integers(0, 256, (4, 5, 3), np.uint8)
  return image_files.encode_png(np.kron(small, np.ones((150, 150, 1), np.uint8)))


@pytest.fixture(scope='module')
def pictures(tmp_path_factory) -> pathlib.Path:
  """A folder of pictures with captions."""
  folder = tmp_path_factory.mktemp('pictures')
  for k in range(COUNT):
    (folder / f'{k:03}.png').write_bytes(png(k))
    (folder / f'{k:03}.txt').write_text(f'number {k}')
  return folder


@pytest.fixture(scope='module')
def stories(tmp_path_factory) -> pathlib.Path:
  """Files of texts and pictures by turns."""
  folder = tmp_path_factory.mktemp('stories')
  with array_record.Writer(str(folder / 'some'), 0, 1) as writer:
    for k in range(COUNT // 2):
      shown = [png(k), None, png(k + 1)][: k % 3 + 1]
      said = [None, f'number {k}', None][: len(shown)]
      writer.write({'image': shown, 'text': said})
  return folder


def frozen(autoencoder, devices: int):
  here = mesh.make(
    mesh.MeshConfig(data=-1, fsdp=1, sequence=1, tensor=1), jax.devices()[:devices]
  )
  return here, restore.codec_from(pathlib.Path(autoencoder), here, deviation=1.0)


def encode(run, folder, *, name=NAME, devices=8, numbers=range(FILES)) -> pathlib.Path:
  """What the command does, in this process."""
  here, codec = frozen(run.autoencoder.checkpoint, devices)
  source = run.data.sources[name]
  with futures.ThreadPoolExecutor(2) as pool:
    encoder = encoding.Encoder(
      name=name,
      records=corpus.open_records(source),
      fields=source.form.pictures,
      pictures=run.data.images,
      encode=input_lib.moments(codec, here),
      batch=devices,
      broken=0.0,
      pool=pool,
    )
    origin = encoder.records.fingerprint()
    identity = input_lib.identity(codec)
    manifest = manifest_lib.Manifest(identity, SIDE, SIDE, ['image'], origin, FILES)
    manifest_lib.claim(str(folder), manifest)
    for number in numbers:
      encoder.write(str(folder / name), number, FILES, lambda count: None)
  return folder


@pytest.fixture(scope='module')
def latents(tmp_path_factory, pictures, autoencoder) -> pathlib.Path:
  return encode(parsed(pictures, autoencoder), tmp_path_factory.mktemp('latents'))


def command(name: str, *flags: str, **changes) -> list[str]:
  program = [sys.executable, '-m', f'transfusion_jax.{name}']
  fields = [f'--config.{field}={value}' for field, value in changes.items()]
  return [*program, '--config=configs/emoji_scenes.py', *flags, *fields]


def run(arguments: list[str], environment: dict[str, str]):
  return subprocess.run(
    arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
  )


def records(folder: pathlib.Path) -> list[dict]:
  found = array_record.ArrayRecord(str(folder), '')
  return [found[k] for k in range(len(found))]


def assert_alike(one: list[dict], other: list[dict]) -> None:
  """Equal, but that sums in another order may round to a neighbour."""
  assert len(one) == len(other) == COUNT
  for a, b in zip(one, other, strict=True):
    assert [a['key'], a['text']] == [b['key'], b['text']]
    assert a['image'].dtype == b['image'].dtype == np.float16
    a, b = (each['image'].astype(np.float32) for each in (a, b))
    np.testing.assert_allclose(a, b, rtol=2 * FLOAT16, atol=NOISE)


def test_a_killed_process_goes_on(
  tmp_path, pictures, autoencoder, latents, environment
):
  """It makes its own share, with another the whole; the bar begins where it stopped."""
  flags = (f'--source={NAME}', f'--output={tmp_path}', f'--files={FILES}', '--batch=1')
  flags += ('--threads=1', '--processes=2', '--process=0')
  fields = settings(pictures, autoencoder)
  half = command('encode_images', *flags, **fields)
  with subprocess.Popen(half, cwd=ROOT, env=environment()) as killed:
    first = tmp_path / f'{NAME}-00000-of-00004.array_record'
    while killed.poll() is None and not first.exists():
      time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
  if len([name for name in os.listdir(tmp_path) if name.startswith(NAME)]) > 1:
    pytest.skip('it was done before the signal came')
  done = run(half, environment(devices=2))
  assert done.returncode == 0, done.stderr
  assert f'{COUNT // FILES}/{COUNT // 2} [' in done.stderr
  assert f'{COUNT // FILES} pictures encoded' in done.stderr
  numbers = [name.split('-')[1] for name in os.listdir(tmp_path) if '-' in name]
  assert sorted(numbers) == ['00000', '00002']  # and nothing of what was killed
  encode(parsed(pictures, autoencoder), tmp_path, numbers=(1, 3))
  assert_alike(records(tmp_path), records(latents))


def test_a_missing_file_is_made_again(tmp_path, pictures, autoencoder, latents):
  """Alone, on other devices, in batches of another size."""
  run = parsed(pictures, autoencoder)
  assert_alike(records(encode(run, tmp_path, devices=1)), records(latents))


def feed(run):
  return input_lib.documents(run, *frozen(run.autoencoder.checkpoint, 1), None)


@pytest.fixture
def both(tmp_path, pictures, stories, latents, autoencoder):
  """A run on captioned pictures and stories, and one on their latents."""
  changes = {
    'sources.stories': base.source('array_record', str(stories)),
    'sources.stories.form.kind': 'interleaved',
  }
  run = parsed(pictures, autoencoder, **changes)
  encode(run, tmp_path, name='stories')
  changes['sources.stories'] = base.source('array_record', str(tmp_path))
  stored = parsed(latents, autoencoder, 'array_record', moments=True, **changes)
  preflight.check(stored)
  return run, stored


def test_training_sees_the_same_batches(both):
  """Latents to the rounding to float16, everything else to the bit."""
  one, other = map(feed, both)
  for _ in range(3):
    a, b = next(one), next(other)
    for field in dataclasses.fields(a):
      if field.name != 'images':
        x, y = (np.asarray(getattr(each, field.name)) for each in (a, b))
        np.testing.assert_array_equal(x, y)
    used = np.asarray(a.image_weight) > 0
    assert used.any()
    x, y = (np.asarray(each.images)[used] for each in (a, b))
    difference = np.abs(x - y)
    assert difference.max() > 0
    assert (difference <= (FLOAT16 * np.abs(SCALE * x + SHIFT) + NOISE) / SCALE).all()
  assert one.get_state() == other.get_state()
  assert {count['next'] > 0 for count in drawn(one).values()} == {True}


def drawn(feed):
  return feed.get_state()['shards']['0']['source']['sources']


def test_stored_posteriors_can_be_drawn_from(latents, autoencoder):
  run = parsed(latents, autoencoder, 'array_record', moments=True)
  stage = dataclasses.replace(run.autoencoder, sample=True)
  mean, draw = (
    next(feed(each)) for each in (run, dataclasses.replace(run, autoencoder=stage))
  )
  noise = np.asarray(draw.images - mean.images)[np.asarray(mean.image_weight) > 0]
  stored = np.stack([record['image'] for record in records(latents)])
  variance = np.exp(np.split(stored.astype(np.float32), 2, axis=-1)[1]).mean()
  assert noise.std() * SCALE == pytest.approx(np.sqrt(variance), rel=0.1)


def test_another_autoencoder_is_refused_before_anything_is_written(
  tmp_path, autoencoder, latents, environment
):
  other = untrained(tmp_path / 'other', seed=1)
  fields = settings(latents, other, 'array_record', moments=True)
  input_lib.check_latents(parsed(latents, autoencoder, 'array_record', moments=True))
  workdir_flag = f'--workdir={tmp_path / "run"}'
  done = run(command('train', workdir_flag, **fields), environment())
  assert done.returncode == 2, done.stderr
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith('error: expected latents of the autoencoder of the run')
  assert not (tmp_path / 'run').exists()


def test_an_error_is_one_line(tmp_path, pictures, environment):
  flags = (f'--source={NAME}', f'--output={tmp_path}')
  done = run(command('encode_images', *flags, **settings(pictures, '')), environment())
  assert done.returncode == 2, done.stderr
  (line,) = done.stderr.strip().splitlines()
  assert 'name the work directory of an autoencoder' in line
  assert os.listdir(tmp_path) == []


def test_latents_are_told_from_pictures_before_training(pictures, latents, autoencoder):
  bad = {
    'found latents .* set data.moments=true': (latents, autoencoder, 'array_record'),
    "array_record'.*found 'folder'": (pictures, autoencoder, 'folder', True),
    'autoencoder.checkpoint with data.moments': (latents, '', 'array_record', True),
  }
  for message, (path, given, kind, *moments) in bad.items():
    changes = {'moments': True} if moments else {}
    with pytest.raises(ValueError, match=message):
      preflight.check(parsed(path, given, kind, **changes))
  stage = parsed(pictures, autoencoder).autoencoder.run
  data = dataclasses.replace(stage.data, moments=True)
  with pytest.raises(ValueError, match='expected pictures to train an autoencoder'):
    preflight.check(dataclasses.replace(stage, data=data))
