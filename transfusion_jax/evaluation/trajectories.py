"""Denoising trajectories: what a model expects pictures to be while it draws them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from transfusion_jax.evaluation import report
from transfusion_jax.generation import writer as writer_lib
from transfusion_jax.generation.samplers import denoise

_COUNT, _STAGES = 4, 8


def gallery(
  writer: writer_lib.Writer,
  prompts: Sequence[str],
  keys: writer_lib.Keys,
  sampling: denoise.ImageSampling,
) -> report.Gallery:
  """Trajectories of the first prompts, left to right; the last is what `draw` draws."""
  prompts, stages = prompts[:_COUNT], min(_STAGES, sampling.steps)
  trajectories = writer.trajectories(prompts, keys[:_COUNT], sampling, stages=stages)
  tiles = [
    report.Tile(joined(trajectory), prompt, good=None)
    for trajectory, prompt in zip(trajectories, prompts, strict=True)
  ]
  note = (
    'What the model expects the picture to be, at steps evenly spread from pure noise '
    'to the last, whose prediction is the picture.'
  )
  return report.Gallery('From noise to picture', note, tiles)


def joined(
  pictures: Sequence[UInt8[np.ndarray, 'h w 3']] | UInt8[np.ndarray, 'n h w 3'],
) -> UInt8[np.ndarray, 'h all 3']:
  """Pictures of one size beside each other, with white between them."""
  pictures = np.stack(pictures)
  gap = -(-pictures.shape[2] // 32)
  framed = np.pad(pictures, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
  return np.concatenate(framed, axis=1)[:, :-gap]
