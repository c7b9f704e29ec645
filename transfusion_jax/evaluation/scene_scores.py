"""Draws and captions emoji scenes with a trained model, and scores what comes out.

Every row of the table has its own scenes: prompts that the model has not been trained
on as such (`test`), and combinations it has never seen (`heldout`). Pictures are judged
by `scenes.py`, the same template matching that must find every object in the dataset's
own pictures.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from transfusion_jax.data import emoji_scenes
from transfusion_jax.evaluation import report, scenes
from transfusion_jax.generation import image
from transfusion_jax.generation import writer as writer_lib


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """What is measured at the end of a run.

  Attributes:
    prompts: prompts or pictures behind every score; 0 leaves evaluation out.
    rows: how many are generated at a time.
    shown: tiles of every gallery in the report.
    seed: of the noise that pictures are sampled from.
  """

  prompts: int
  rows: int
  shown: int
  seed: int


@dataclasses.dataclass(frozen=True)
class Results:
  """Scores by name, and galleries for the report."""

  scores: dict[str, float]
  galleries: tuple[report.Gallery, ...]


GOALS = (
  report.Goal('autoencoder_psnr', 'autoencoder PSNR on test pictures, dB', 28.0, None),
  report.Goal('background', 'background colour right', 0.99, None),
  report.Goal('single_object', 'single object right', 0.95, None),
  report.Goal('two_objects', 'two objects both right', 0.70, None),
  report.Goal('relation', 'relation right, where both were found', 0.80, None),
  report.Goal(
    'caption', 'caption: objects, counts and colours exactly right', 0.95, None
  ),
  report.Goal('heldout_two_objects', 'two objects, pairs never trained on', None, None),
  report.Goal('heldout_single_object', 'object x colour never trained on', None, None),
  report.Goal('counting', 'exactly so many of one object', None, None),
  report.Goal('binding', 'two objects, each on its own colour', None, None),
  report.Goal('caption_relation', 'caption: relation right', None, None),
  report.Goal('wall_seconds', 'the whole command, seconds', None, 1200.0),
)


def evaluate(
  writer: writer_lib.Writer,
  data: emoji_scenes.EmojiScenesConfig,
  config: EvaluationConfig,
  sampling: image.ImageSampling,
) -> Results:
  """All scores of a model on emoji scenes.

  Args:
    writer: the model.
    data: the scenes it was trained on; kinds of weight 0 are not asked for.
    config: how many.
    sampling: how pictures are sampled.
  """
  galleries, all_asked, all_drawn = [], [], []
  for kind in ('single', 'pair', 'count', 'binding'):
    if getattr(data, kind):
      asked = _scenes(data, 'test', kind, config.prompts)
      drawn = _draw(writer, asked, config, sampling)
      all_asked, all_drawn = all_asked + asked, all_drawn + drawn
      title = f'Pictures of new prompts: {kind}'
      galleries.append(_gallery(title, data, asked, drawn, config.shown))
  scores = scenes.aggregate(data, all_asked, all_drawn)
  for kind, name in (('single', 'single_object'), ('pair', 'two_objects')):
    if getattr(data, kind) and data.heldout:
      asked = _scenes(data, 'heldout', kind, config.prompts)
      drawn = _draw(writer, asked, config, sampling)
      scores[f'heldout_{name}'] = scenes.aggregate(data, asked, drawn)[name]
      title = f'Combinations never trained on: {kind}'
      galleries.append(_gallery(title, data, asked, drawn, config.shown))
  captions, gallery = _captions(writer, data, config)
  return Results(scores | captions, (*galleries, gallery))


def _captions(writer, data, config) -> tuple[dict[str, float], report.Gallery]:
  """Captions of clean test pictures, of all kinds as they come."""
  pictures = dataclasses.replace(data, story=0.0)
  asked = [emoji_scenes.EmojiScenes(pictures, 'test')[i] for i in range(config.prompts)]
  said: list[str] = []
  for start in range(0, len(asked), config.rows):
    part = asked[start : start + config.rows]
    said += writer.caption([scene.pixels for scene in part], limit=writer.context)
  right = [
    scenes.caption_correct(data, *pair) for pair in zip(asked, said, strict=True)
  ]
  relations = [
    scenes.caption_relation_correct(data, scene, text)
    for scene, text in zip(asked, said, strict=True)
  ]
  relations = [each for each in relations if each is not None]
  tiles = [
    report.Tile(scene.pixels, text, good)
    for scene, text, good in zip(asked, said, right, strict=True)
  ]
  gallery = report.Gallery(
    'Captions of new pictures',
    'Pictures from the test split and what the model says of them.',
    tuple(tiles[: config.shown]),
  )
  scores = {'caption': float(np.mean(right))}
  if relations:
    scores['caption_relation'] = float(np.mean(relations))
  return scores, gallery


def _scenes(data, split: str, kind: str, count: int) -> list[emoji_scenes.Scene]:
  """The first scenes of a split that are all of one kind."""
  weights = {name: float(name == kind) for name in emoji_scenes.KINDS}
  source = emoji_scenes.EmojiScenes(dataclasses.replace(data, **weights), split)
  return [source[index] for index in range(count)]


def _draw(
  writer: writer_lib.Writer,
  asked: Sequence[emoji_scenes.Scene],
  config: EvaluationConfig,
  sampling: image.ImageSampling,
) -> list[np.ndarray]:
  keys = jax.random.split(jax.random.key(config.seed), len(asked))
  drawn: list[np.ndarray] = []
  for start in range(0, len(asked), config.rows):
    part = slice(start, start + config.rows)
    prompts = [scene.caption for scene in asked[part]]
    drawn += list(writer.draw(prompts, keys[part], sampling))
  return drawn


def _gallery(title, data, asked, drawn, shown: int) -> report.Gallery:
  tiles = []
  for scene, picture in list(zip(asked, drawn, strict=True))[:shown]:
    verdict = scenes.score(data, scene, picture)
    parts = (verdict.objects, verdict.background, verdict.relation, verdict.binding)
    good = all(part for part in parts if part is not None)
    tiles.append(report.Tile(picture, scene.caption, good))
  note = (
    'The first prompts of the row, not chosen; right means object, place and colour.'
  )
  return report.Gallery(title, note, tuple(tiles))
