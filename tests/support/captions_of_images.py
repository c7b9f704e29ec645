"""A file of captioned pictures, and a writer that has learnt it by heart."""

import dataclasses
import json
import pathlib

import numpy as np

from configs import base
from tests.support import tiny
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.images import image_files
from transfusion_jax.generation import writer as writer_lib
from transfusion_jax.generation.samplers import denoise
from transfusion_jax.runs import config

SCENES = config.build(emoji_scenes.EmojiScenesConfig, base.transfusion().data.scenes)
SAMPLING = dataclasses.replace(
  config.build(denoise.ImageSampling, base.transfusion().sampling),
  solver='ddim',
  steps=2,
)
SIZE = image_files.ImagesConfig(
  tiny.SIDE, tiny.SIDE, 'center', smallest=1, most_pixels=100
)


def write(folder: pathlib.Path, count: int) -> str:
  """The path of a file of `count` pictures, each with two captions of its own."""
  lines = []
  for number in range(count):
    png = image_files.encode_png(tiny.picture(number))
    (folder / f'{number}.png').write_bytes(png)
    first, second = (tiny.WORDS[k] for k in (number // 16, number % 16))
    said = [f'{first} {second}', f'{first} {second} {second}']
    lines.append(json.dumps({'image': f'{number}.png', 'text': said}))
  (folder / 'all.jsonl').write_text('\n'.join(lines))
  return str(folder / 'all.jsonl')


def parrot() -> 'Parrot':
  return Parrot(**vars(tiny.writer()))


@dataclasses.dataclass(frozen=True)
class Parrot(writer_lib.Writer):
  """Draws the very pictures, and says their first captions."""

  asked: list[str] = dataclasses.field(default_factory=list)

  def draw(self, prompts, keys, sampling) -> np.ndarray:
    del sampling
    assert len(prompts) == len(keys)
    self.asked.extend(prompts)
    return np.stack([tiny.picture(self._number(prompt)) for prompt in prompts])

  def trajectories(self, prompts, keys, sampling, *, stages) -> np.ndarray:
    del keys, sampling
    pictures = [tiny.picture(self._number(prompt)) for prompt in prompts]
    return np.stack([pictures] * stages, axis=1)

  def caption(self, pictures, *, limit) -> list[str]:
    del limit
    numbers = {tiny.picture(number).tobytes(): number for number in range(256)}
    found = [numbers[picture.tobytes()] for picture in pictures]
    return [f'{tiny.WORDS[k // 16]} {tiny.WORDS[k % 16]}' for k in found]

  def _number(self, prompt: str) -> int:
    first, second = prompt.split()[:2]
    return 16 * tiny.WORDS.index(first) + tiny.WORDS.index(second)
