"""The small autoencoder of the emoji scenes: 32 x 32 pixels to 4 x 4 latents.

  python -m transfusion_jax.train --config=configs/emoji_autoencoder.py \
    --workdir=runs/emoji_autoencoder

Two minutes on two CPU cores, to 32 dB. `configs/emoji_scenes.py` trains it as its first
stage, so that this command is only needed to change it.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """The run that the page above describes."""
  run = base.autoencoder()
  run.data.update(rows=64, row_length=128, image_slots=4)
  run.data.scenes.update(single=0.25, count=0.1, pair=0.55, binding=0.05, story=0.05)
  run.model.update(base.SMALL_AUTOENCODER)
  run.objective.kl_weight = 2e-3
  run.optimizer.update(
    learning_rate=3e-3,
    final_learning_rate=6e-5,
    warmup_steps=50,
    beta2=0.95,
    ema_decay=0.99,
  )
  run.train.update(steps=900, log_every=10, checkpoint_every=450)
  run.measured = 2048
  return run
