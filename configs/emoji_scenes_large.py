"""Transfusion on all emoji at 128 pixels, at free positions, for one GPU.

  python -m transfusion_jax.train --config=configs/emoji_scenes_large.py \
    --workdir=runs/emoji_scenes_large

1,380 glyphs, ten colours, sprites of 32 to 64 pixels at free positions; 16 x 16 latents
in 2 x 2 patches: 64 positions a picture. 120M parameters with the U-Net adapter.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Config described above."""
  run = base.transfusion()
  run.data.scenes.update(
    glyphs=0,
    colors=10,
    size=128,
    sprites=(32, 40, 48, 56, 64),
    placement='free',
    frames=3,
  )
  run.data.images.update(height=128, width=128)
  run.data.update(rows=64, row_length=512, image_slots=8, window=256)
  run.autoencoder.run = _autoencoder(run)
  run.model.transformer.update(
    depth=12,
    width=768,
    heads=12,
    kv_heads=12,
    head_dim=64,
    mlp=2048,
    qk_norm=True,
    dtype='bfloat16',
  )
  run.model.adapter.kind = 'unet'
  run.model.adapter.unet.update(widths=(192, 384), head_dim=64)
  run.objective.target = 'v'
  run.optimizer.update(
    learning_rate=5e-4,
    final_learning_rate=1e-5,
    warmup_steps=1000,
    ema_decay=0.999,
  )
  run.train.update(steps=40_000, log_every=50)
  run.train.checkpoints.every = 2000
  run.sampling.update(solver='ddim', steps=50, guidance=2.5)
  base.evaluate(run, scenes=base.evaluator('scenes', prompts=256), **base.of_own_data())
  return run


def _autoencoder(run: ConfigDict) -> ConfigDict:
  first = base.autoencoder()
  first.data = run.data.copy_and_resolve_references()
  first.model.update(channels=64, multipliers=(1, 2, 4, 4))
  first.optimizer.update(learning_rate=5e-4, warmup_steps=500)
  first.train.update(steps=20_000, log_every=50)
  first.train.checkpoints.every = 2000
  return first
