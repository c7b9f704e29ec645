"""The paper's ablations in miniature, on emoji scenes: a sweep of nine trials.

  python -m launch.sweep --config=configs/emoji_ablations.py \
    --workdir=runs/emoji_ablations --metric=scenes/two_objects

The run of `configs/emoji_scenes.py`, shortened to 1,500 steps, with one change at a
time: the weight of the image loss (lambda), the cap on the noise of an image before its
caption, the patch size, the image adapter (with both patch sizes, as in the paper), and
guidance, which needs no separate training.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import base, emoji_scenes
from transfusion_jax.sweeping import overrides


def get_config() -> ConfigDict:
  """Config that the trials change."""
  run = emoji_scenes.get_config()
  run.data.image_slots = 10  # more pictures fit into a row where patches are larger
  run.model.adapter.unet.update(
    widths=(64,), blocks=1, groups=8, head_dim=32, time_features=128
  )
  run.train.update(steps=1500, log_every=10)
  run.train.checkpoints.every = 500
  base.evaluate(run, scenes=base.evaluator('scenes', prompts=64))
  return run


def sweep() -> Iterator[dict[str, Any]]:
  """Overrides of every trial; the first trial is unchanged."""
  yield {}
  yield from overrides.grid({'objective.image_weight': (1.0, 20.0)})
  yield {'data.scenes.image_first_noise_cap': 1.0}
  yield {'model.adapter.linear.patch': 2}
  unet = {'model.adapter.kind': 'unet'}
  yield unet
  yield {**unet, 'model.adapter.unet.widths': (32, 64)}
  yield from overrides.grid({'sampling.guidance': (1.0, 4.0)})
