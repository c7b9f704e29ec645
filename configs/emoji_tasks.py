"""Emoji scenes with questions and edits: a model that draws, captions, answers, edits.

  python -m transfusion_jax.train --config=configs/emoji_tasks.py \
    --workdir=runs/emoji_tasks
"""

from ml_collections import ConfigDict

from configs import base, emoji_scenes


def get_config() -> ConfigDict:
  """The run that the page above describes."""
  run = emoji_scenes.get_config()
  base.mix(
    run.data,
    scenes=base.source('emoji_scenes', weights=(0.35,)),
    questions=base.source('emoji_scenes', form='question', weights=(0.35,)),
    edits=base.source('emoji_scenes', form='edit', weights=(0.3,)),
  )
  run.data.scenes.caption_first = 0.7
  run.train.steps = 7000
  base.evaluate(
    run,
    scenes=base.evaluator('scenes', prompts=128),
    tasks=base.evaluator('scene_tasks'),
  )
  return run
