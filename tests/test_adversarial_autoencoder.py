"""A run with LPIPS and a discriminator, from its config to the codec it leaves."""

import numpy as np

from configs import emoji_autoencoder
from tests.support import lpips_files, torch_files
from transfusion_jax.models.codecs import perceptual
from transfusion_jax.runs import (
  autoencoder,
  build,
  config,
  preflight,
  restore,
)
from transfusion_jax.training import (
  checkpoint_reader,
  lock,
  mesh,
  metrics,
  preemption,
  workdir,
)


def test_judges_train_it_and_stay_behind(tmp_path, monkeypatch):
  monkeypatch.setattr(perceptual, 'WIDTHS', lpips_files.WIDTHS)
  file = tmp_path / 'lpips.pth'
  torch_files.write(file, lpips_files.theirs(lpips_files.built()[1]))
  page = emoji_autoencoder.get_config('perceptual')
  page.data.rows = 8
  page.model.update(channels=8, multipliers=(1,), groups=4)
  page.objective.lpips_file = str(file)
  page.objective.adversarial.begin = 1
  page.objective.adversarial.discriminator.update(channels=4, layers=1, groups=2)
  page.train.update(steps=2, log_every=1)
  page.measured = 8
  run = config.parse(page)
  preflight.check(run)
  preflight.check_files(run)
  place = workdir.Workdir(tmp_path / 'run')
  place.claim(config.to_dict(run), {})
  with preemption.Stop() as stop, lock.Lock(place.lock) as held:
    autoencoder.train(run, place, stop, held)
  devices = mesh.make(run.mesh)
  codec = restore.codec_from(place.root, devices, deviation=1.0)
  trainer = build.trainer(run, devices)
  kept = checkpoint_reader.read(
    place.checkpoints, {'ema': trainer.abstract.ema}
  ).state.ema
  assert kept.keys() == {'encoder', 'decoder', 'discriminator'}
  kernel = codec.model.decoder.exit.kernel[...]
  np.testing.assert_array_equal(kernel, kept['decoder']['exit']['kernel'])
  assert not hasattr(codec.model, 'discriminator')
  first, second = metrics.read(place.metrics)
  assert first['adversarial_weight'] == 0 < second['adversarial_weight']
