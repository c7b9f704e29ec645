"""Draws and captions emoji scenes with a trained model, and scores what comes out.

Every score has its own scenes: prompts that the model has not been trained on as such
(`test`), and combinations it has never seen (`heldout`). Pictures are judged by
`scenes.py`, the same template matching that must find every object in the dataset's
own pictures.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.evaluation import evaluator, report, trajectories
from transfusion_jax.evaluation.emoji import scorer
from transfusion_jax.generation import writer as writer_lib
from transfusion_jax.generation.samplers import denoise


@dataclasses.dataclass(frozen=True)
class ScenesConfig:
  """Emoji scenes drawn and captioned, and scored exactly.

  Attributes:
    kind: tells this evaluator from the others.
    prompts: prompts or pictures behind every score.
    shown: tiles of every gallery.
    seed: of the noise that pictures are sampled from.
  """

  kind: Literal['scenes']
  prompts: int
  shown: int
  seed: int

  def __post_init__(self):
    if self.prompts < 1 or self.shown < 0:
      raise ValueError(
        f'expected prompts >= 1 and shown >= 0, found {self.prompts} and {self.shown}; '
        'remove the evaluator to do without'
      )


GOALS = (
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
)
"""Scores that a model of the demonstration reaches."""

RUN_GOALS = (
  report.Goal('autoencoder_psnr', 'autoencoder PSNR on test pictures, dB', 28.0, None),
  report.Goal('wall_seconds', 'the whole command, seconds', None, 1200.0),
)
"""Goals of the whole demonstration."""


class Scenes:
  """The evaluator."""

  def __init__(
    self,
    config: ScenesConfig,
    data: emoji_scenes.EmojiScenesConfig,
    sampling: denoise.ImageSampling,
    *,
    rows: int,
  ):
    """Sets it up.

    Args:
      config: how many.
      data: the scenes that the model was trained on; kinds of weight 0 are not asked
        for.
      sampling: how pictures are sampled.
      rows: pictures that are generated at a time.
    """
    self._config, self._data = config, data
    self._sampling, self._rows = sampling, rows

  def check(self) -> None:
    """Draws a scene of every kind that is asked for."""
    for kind in self._kinds:
      self._scenes('test', kind, 1)

  def __call__(
    self, writer: writer_lib.Writer
  ) -> Iterator[tuple[str, evaluator.Value]]:
    """All scores of a model, and galleries."""
    data, wrong = self._data, []
    yield from self._new_prompts(writer, wrong)
    for kind, name in (('single', 'single_object'), ('pair', 'two_objects')):
      if getattr(data, kind) and data.heldout:
        asked, drawn, tiles = self._drawn(writer, 'heldout', kind)
        wrong += [tile for tile in tiles if not tile.good]
        yield f'heldout_{name}', scorer.aggregate(data, asked, drawn)[name]
        title = f'Combinations never trained on: {kind}'
        yield f'heldout_{kind}', self._gallery(title, tiles)
    yield from self._captions(writer, wrong)
    yield from self._trajectories(writer)
    note = 'What was asked for, or said, where the picture or the words are wrong.'
    shown = tuple(wrong[: self._config.shown])
    yield 'failures', report.Gallery('What went wrong', note, shown)

  def new_prompts(
    self, writer: writer_lib.Writer
  ) -> Iterator[tuple[str, evaluator.Value]]:
    """Scores and galleries of pictures of the test split's prompts alone."""
    return self._new_prompts(writer, [])

  def _new_prompts(self, writer, wrong: list[report.Tile]):
    data, all_asked, all_drawn = self._data, [], []
    for kind in self._kinds:
      asked, drawn, tiles = self._drawn(writer, 'test', kind)
      all_asked, all_drawn = all_asked + asked, all_drawn + drawn
      wrong += [tile for tile in tiles if not tile.good]
      yield kind, self._gallery(f'Pictures of new prompts: {kind}', tiles)
    yield from scorer.aggregate(data, all_asked, all_drawn).items()

  def _trajectories(self, writer) -> Iterator[tuple[str, evaluator.Value]]:
    """The first new prompt of every kind, drawn from the same noise once more."""
    kinds = self._kinds[: self._config.shown]
    if kinds:
      prompts = [self._scenes('test', kind, 1)[0].caption for kind in kinds]
      keys = jnp.stack([self._keys[0]] * len(prompts))
      yield 'denoising', trajectories.gallery(writer, prompts, keys, self._sampling)

  @property
  def _kinds(self) -> list[str]:
    """Kinds of scenes that are asked for."""
    kinds = ('single', 'pair', 'count', 'binding')
    return [kind for kind in kinds if getattr(self._data, kind)]

  @property
  def _keys(self) -> Key[Array, ' b']:
    """One for every prompt of a score, and the same for all scores."""
    return jax.random.split(jax.random.key(self._config.seed), self._config.prompts)

  def _drawn(self, writer, split: str, kind: str):
    """Scenes, what was drawn for their captions, and both as tiles."""
    asked = self._scenes(split, kind, self._config.prompts)
    drawn = self._draw(writer, asked)
    return asked, drawn, [self._tile(*pair) for pair in zip(asked, drawn, strict=True)]

  def _captions(self, writer, wrong: list[report.Tile]):
    """Captions of clean test pictures, of all kinds as they come."""
    data, count, rows = self._data, self._config.prompts, self._rows
    source = emoji_scenes.EmojiScenes(dataclasses.replace(data, story=0.0), 'test')
    asked = [source[index] for index in range(count)]
    said: list[str] = []
    for start in range(0, count, rows):
      part = asked[start : start + rows]
      said += writer.caption([scene.pixels for scene in part], limit=writer.context)
    pairs = list(zip(asked, said, strict=True))
    tiles = [
      report.Tile(scene.pixels, text, scorer.caption_correct(data, scene, text))
      for scene, text in pairs
    ]
    yield 'caption', float(np.mean([tile.good for tile in tiles]))
    relations = [scorer.caption_relation_correct(data, *pair) for pair in pairs]
    relations = [each for each in relations if each is not None]
    if relations:
      yield 'caption_relation', float(np.mean(relations))
    wrong += [tile for tile in tiles if not tile.good]
    note = 'Pictures from the test split and what the model says of them.'
    shown = tuple(tiles[: self._config.shown])
    yield 'captions', report.Gallery('Captions of new pictures', note, shown)

  def _scenes(self, split: str, kind: str, count: int) -> list[emoji_scenes.Scene]:
    """The first scenes of a split that are all of one kind."""
    weights = {name: float(name == kind) for name in emoji_scenes.KINDS}
    alone = dataclasses.replace(self._data, **weights)
    source = emoji_scenes.EmojiScenes(alone, split)
    return [source[index] for index in range(count)]

  def _draw(
    self, writer: writer_lib.Writer, asked: Sequence[emoji_scenes.Scene]
  ) -> list[np.ndarray]:
    drawn: list[np.ndarray] = []
    for start in range(0, len(asked), self._rows):
      part = slice(start, start + self._rows)
      prompts = [scene.caption for scene in asked[part]]
      drawn += list(writer.draw(prompts, self._keys[part], self._sampling))
    return drawn

  def _tile(self, scene: emoji_scenes.Scene, picture: np.ndarray) -> report.Tile:
    verdict = scorer.score(self._data, scene, picture)
    parts = (verdict.objects, verdict.background, verdict.relation, verdict.binding)
    good = all(part for part in parts if part is not None)
    return report.Tile(picture, scene.caption, good)

  def _gallery(self, title: str, tiles: Sequence[report.Tile]) -> report.Gallery:
    note = 'The first prompts, not chosen; right means object, place and colour.'
    return report.Gallery(title, note, tuple(tiles[: self._config.shown]))
