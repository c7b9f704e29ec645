"""Two minutes of training must show: losses fall, pictures and captions come out right."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

SMALL = (
  '--config.data.scenes.glyphs=6',
  '--config.data.scenes.colors=4',
  '--config.data.scenes.single=0.6',
  '--config.data.scenes.pair=0.4',
  '--config.data.scenes.count=0.0',
  '--config.data.scenes.binding=0.0',
  '--config.data.scenes.story=0.0',
  '--config.data.rows=8',
  '--config.train.steps=400',
  '--config.evaluation.prompts=32',
  '--config.sampling.steps=25',
)

FIRST = (
  '--config.autoencoder.run.data.scenes.glyphs=6',
  '--config.autoencoder.run.data.scenes.colors=4',
  '--config.autoencoder.run.data.scenes.binding=0.0',
  '--config.autoencoder.run.data.rows=32',
  '--config.autoencoder.run.train.steps=400',
  '--config.autoencoder.run.measured=256',
)


@pytest.mark.slow
def test_it_learns_to_draw_and_to_caption(tmp_path):
  program = [sys.executable, '-m', 'transfusion_jax.train', f'--workdir={tmp_path}/run']
  done = subprocess.run(
    [*program, '--config=configs/emoji_scenes.py', *SMALL, *FIRST],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=1800,
  )
  assert done.returncode == 0, done.stderr
  records = [json.loads(line) for line in (tmp_path / 'run/metrics.jsonl').open()]
  late = records[-5:]
  assert max(record['loss_text'] for record in late) < 0.8
  assert max(record['loss_image'] for record in late) < 0.35
  report = json.loads((tmp_path / 'run/report.json').read_text())
  least = {
    'autoencoder_psnr': 24.0,
    'background': 0.95,
    'single_object': 0.8,
    'caption': 0.8,
  }
  for name, value in least.items():
    assert report[name] >= value, (name, report[name])
