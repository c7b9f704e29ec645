"""Emoji scenes with questions and edits, in addition to images and captions.

  python -m transfusion_jax.train --config=configs/emoji_tasks.py \
    --workdir=runs/emoji_tasks

Where an object stands is asked by its name, so that the model has to find it by what it
looks like. With scenes of pairs alone that was never learnt: left or right was guessed
for 6,000 steps, because nothing tells the model where to look before it knows what to
do with what it finds. Asking for the colour behind an object does, and with as many
scenes of two colours as of one (`binding`, `pair`) all directions were right after
4,000 steps of questions alone.
"""

from ml_collections import ConfigDict

from configs import base, emoji_scenes


def get_config() -> ConfigDict:
  """Config described above."""
  run = emoji_scenes.get_config()
  base.mix(
    run.data,
    scenes=base.source('emoji_scenes', weights=(0.3,)),
    questions=base.source('emoji_scenes', form='question', weights=(0.5,)),
    edits=base.source('emoji_scenes', form='edit', weights=(0.2,)),
  )
  run.data.scenes.update(single=0.1, count=0.15, pair=0.35, binding=0.35, story=0.05)
  run.data.scenes.caption_first = 0.7
  run.model.transformer.update(heads=4, kv_heads=4, head_dim=32)
  run.optimizer.learning_rate = 2e-3
  run.train.steps = 9000
  base.evaluate(
    run,
    scenes=base.evaluator('scenes', prompts=128),
    tasks=base.evaluator('scene_tasks'),
    **base.of_own_data(),
  )
  return run
