"""Transfusion on your own folder: `name.jpg` (or .png, ...) beside `name.txt`.

  python -m transfusion_jax.train --config=configs/folder.py:PATH --workdir=runs/mine

PATH may be any path that fsspec reads, and may contain folders. Images without text and
texts without an image are used too. Every hundredth record is held out for the report.
The sizes below are for a few thousand pictures of 64 pixels and one small accelerator,
or a patient CPU; `configs/transfusion_160m.py` shows larger ones. Data of another kind
is one line: `base.source('json_lines', path, text='caption')`, and several are mixed by
naming them: `base.mix(run.data, photos=..., articles=...)`.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(path: str = 'pictures') -> ConfigDict:
  """Config described above."""
  run = base.transfusion()
  run.data = _data(path)
  run.autoencoder.run = _autoencoder(path)
  run.model.transformer.update(
    depth=8,
    width=256,
    heads=4,
    kv_heads=4,
    head_dim=64,
    mlp=704,
    qk_norm=True,
    unroll=8,
  )
  run.model.adapter.linear.update(patch=1, time_features=256, positions=8)
  run.optimizer.update(learning_rate=1e-3, warmup_steps=500, ema_decay=0.999)
  run.train.update(steps=50_000, log_every=10)
  run.train.checkpoints.every = 1000
  return run


def _data(path: str) -> ConfigDict:
  data = base.transfusion().data
  base.mix(data, folder=base.source('folder', path, heldout=0.01))
  data.tokenizer.kind = 'bytes'
  data.images.update(height=64, width=64)
  data.update(rows=16, row_length=512, image_slots=6, threads=2)
  return data


def _autoencoder(path: str) -> ConfigDict:
  run = base.autoencoder()
  run.data = _data(path)
  run.data.rows = 32
  run.model.update(base.SMALL_AUTOENCODER)
  base.plain_objective(run, kl_weight=1e-4)
  run.optimizer.update(learning_rate=1e-3, warmup_steps=200)
  run.train.update(steps=5000, log_every=10)
  run.train.checkpoints.every = 1000
  run.measured = 256
  return run
