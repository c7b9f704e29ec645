"""Drawings of held-out captions, beside the pictures that belong to such captions.

One drawing for every caption serves all measures: the distance between the set of
drawings and a set of pictures (`frechet.py`), by the features of a network
(`features.py`), and how well each drawing suits its caption (`clip_score.py`). The
protocol of papers on MS-COCO is 30,000 captions drawn at random from its validation
set.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

import jax
import numpy as np
from jaxtyping import Float

from transfusion_jax.data import captioned, corpus
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.images import image_files
from transfusion_jax.evaluation import (
  clip_score,
  features,
  frechet,
  report,
  trajectories,
)
from transfusion_jax.generation import writer as writer_lib
from transfusion_jax.generation.samplers import denoise


@dataclasses.dataclass(frozen=True)
class DrawingsConfig:
  """Settings of the drawings, and of the images that they are compared with.

  Attributes:
    kind: tells this evaluator from the others.
    source: pictures with captions.
    prompts: captions that are drawn, one of each picture and drawn at random.
    pictures: that the drawings are compared with, at random too; 0: all of the source.
    features: the network whose features are compared.
    subsets: of pictures, for the kernel distance; 100 as a rule.
    subset: pictures of each; 1,000 as a rule.
    clip: the network of the CLIP score.
    shown: drawings in the report.
    seed: of the captions, the pictures, the subsets and the noise.
  """

  kind: Literal['drawings']
  source: corpus.SourceConfig
  prompts: int
  pictures: int
  features: features.FeaturesConfig
  subsets: int
  subset: int
  clip: clip_score.ClipConfig
  shown: int
  seed: int

  def __post_init__(self):
    if self.prompts < 2 or self.pictures < 0 or self.pictures == 1:
      raise ValueError(
        'expected at least 2 prompts and 2 pictures (or 0 for all of them), found '
        f'{self.prompts} and {self.pictures}; some thousands mean something'
      )
    if self.subsets < 1 or self.subset < 2:
      raise ValueError(
        'expected at least 1 subset of 2 pictures, found '
        f'{self.subsets} of {self.subset}; 100 of 1000 are usual'
      )


class Drawings:
  """The evaluator."""

  def __init__(
    self,
    config: DrawingsConfig,
    *,
    scenes: emoji_scenes.EmojiScenesConfig,
    pictures: image_files.ImagesConfig,
    sampling: denoise.ImageSampling,
    rows: int,
  ):
    """Opens the source and looks for the networks' files.

    Args:
      config: what is drawn.
      scenes: which emoji scenes, where it is those.
      pictures: size of what the model draws.
      sampling: how it draws.
      rows: pictures at a time.

    Raises:
      ValueError: a source, a package or a file is missing.
    """
    self._config, self._sampling, self._rows = config, sampling, rows
    self._held = captioned.CaptionedPictures(
      config.source, scenes=scenes, pictures=pictures
    )
    self._asked = self._held.choose(config.prompts, config.seed)
    self._compared = self._held.choose(config.pictures, config.seed + 1)
    self._features = features.make(config.features)
    rated = config.clip.weights
    self._clip = clip_score.ClipScore(config.clip) if rated else None
    self._real: Float[np.ndarray, 'n f'] | None = None

  def check(self) -> None:
    """Looks for an image with a caption among the first."""
    self._held.check()

  def __call__(
    self, writer: writer_lib.Writer
  ) -> Iterator[tuple[str, float | report.Gallery]]:
    """Distances, the CLIP score if there is one, and the first drawings."""
    config = self._config
    if self._real is None:  # before the drawings: files may be broken
      self._real = self._pictures()
    prompts = self._prompts()
    keys = jax.random.split(jax.random.key(config.seed), len(prompts))
    drawn, ratings, tiles = [], [], []
    for part in self._parts(prompts):
      pictures = writer.draw(prompts[part], keys[part], self._sampling)
      drawn.append(self._features(pictures))
      if self._clip is not None:
        ratings.append(self._clip(prompts[part], pictures))
      pairs = zip(pictures, prompts[part], strict=True)
      tiles += [report.Tile(*pair, good=None) for pair in pairs]
      del tiles[config.shown :]
    yield from self._distances(self._real, np.concatenate(drawn))
    if self._clip is not None:
      yield 'clip_score', float(np.mean(np.concatenate(ratings)))
    if tiles:
      note = 'The first captions, as they were drawn at random; none was chosen.'
      yield 'drawings', report.Gallery('Drawings of held-out captions', note, tiles)
      yield 'denoising', trajectories.gallery(writer, prompts, keys, self._sampling)

  def _distances(
    self, real: Float[np.ndarray, 'n f'], drawn: Float[np.ndarray, 'm f']
  ) -> Iterator[tuple[str, float]]:
    config, names = self._config, self._features
    yield names.distance, frechet.distance(*map(frechet.gaussian, (real, drawn)))
    kernel = frechet.kernel_distance(
      real, drawn, subsets=config.subsets, size=config.subset, seed=config.seed
    )
    yield names.kernel, kernel.mean
    yield f'{names.kernel}_deviation', kernel.deviation
    yield 'drawn', float(len(drawn))
    yield 'pictures', float(len(real))

  def _prompts(self) -> list[str]:
    """A caption of every picture that was chosen, of several one at random."""
    found = []
    for number, each in self._held.sound(self._asked):
      captions = each.captions
      random = np.random.default_rng((self._config.seed, number))
      found.append(captions[int(random.integers(len(captions)))])
    return found

  def _pictures(self) -> Float[np.ndarray, 'n f']:
    """Features of the pictures to compare with; they are the same at every step."""
    shown = (each.picture for _, each in self._held.sound(self._compared))
    found = []
    while part := list(itertools.islice(shown, self._rows)):
      found.append(self._features(np.stack(part)))
    return np.concatenate(found)

  def _parts(self, items: Sequence) -> Iterator[slice]:
    for start in range(0, len(items), self._rows):
      yield slice(start, min(start + self._rows, len(items)))
