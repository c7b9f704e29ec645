"""Small autoencoder of the emoji scenes: 32 x 32 pixels to 4 x 4 latents.

  python -m transfusion_jax.train --config=configs/emoji_autoencoder.py \
    --workdir=runs/emoji_autoencoder

Two minutes on two CPU cores, to 32 dB. `configs/emoji_scenes.py` trains it as its first
stage, so that this command is only needed to change it.

`--config=configs/emoji_autoencoder.py:perceptual` adds LPIPS and, from step 300, a
small discriminator; it takes `pip install --no-deps stlpips-pytorch==0.0.2`, and some
thirty times as long on a CPU. LPIPS has a weight of 0.1: with the paper's 1, artwork of
32 pixels got a texture that is not there (after 600 steps of 16 pictures 19.2 dB, where
the plain loss had 22.3).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(terms: str = 'plain') -> ConfigDict:
  """Config described above, with the loss terms `terms`."""
  run = base.autoencoder()
  run.data.update(rows=64, row_length=128, image_slots=4)
  run.data.scenes.update(single=0.25, count=0.1, pair=0.55, binding=0.05, story=0.05)
  run.model.update(base.SMALL_AUTOENCODER)
  base.plain_objective(run, kl_weight=2e-3)
  if terms == 'perceptual':
    run.objective.lpips_weight = 0.1
    run.objective.adversarial.update(weight=0.5, begin=300)
    run.objective.adversarial.discriminator.update(channels=32, layers=2, groups=8)
  run.optimizer.update(
    learning_rate=3e-3,
    final_learning_rate=6e-5,
    warmup_steps=50,
    beta2=0.95,
    ema_decay=0.99,
  )
  run.train.update(steps=900, log_every=10)
  run.train.checkpoints.every = 450
  run.measured = 2048
  return run
