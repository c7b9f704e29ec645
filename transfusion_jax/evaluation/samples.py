"""Held-out documents of a run's own data, and what the model makes of them.

No source and no scorer is needed: prompts that were held out are drawn, beside the
images that belong to them; images are captioned, beside what the data says of them; and
images stand beside what the autoencoder makes of them, which is the best that the model
can draw.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from transfusion_jax.core import log
from transfusion_jax.data import documents, pipeline
from transfusion_jax.data.rows import layout
from transfusion_jax.evaluation import evaluator, own_documents, report, trajectories
from transfusion_jax.generation import logits as logits_lib
from transfusion_jax.generation import writer as writer_lib
from transfusion_jax.generation.samplers import denoise
from transfusion_jax.models.codecs import kl

ROUNDING = 1 / 12
"""Mean square of what rounding to whole pixel values leaves: the floor of an error."""

Asked = tuple[documents.Document, documents.Image | documents.Text]
"""Example: what is given, and the part of the data behind it."""


@dataclasses.dataclass(frozen=True)
class SamplesConfig:
  """Numbers of examples; fewer are taken where fewer are held out.

  Attributes:
    kind: tells this evaluator from the others.
    prompts: that are drawn; 0: none.
    captions: images that are captioned, or questions that are answered; 0: none.
    images: that the autoencoder makes again; 0: none.
    limit: tokens of a caption at most.
    seed: of the choice and of the noise.
  """

  kind: Literal['samples']
  prompts: int
  captions: int
  images: int
  limit: int
  seed: int

  def __post_init__(self):
    counts = (self.prompts, self.captions, self.images)
    if min(counts) < 0 or not any(counts) or self.limit < 1:
      raise ValueError(
        'expected prompts, captions and images of at least 0, one of them above, and a '
        f'limit of at least 1, found {counts} and {self.limit}; raise them'
      )


class Samples:
  """The evaluator: `psnr` of the autoencoder, and three galleries."""

  def __init__(
    self,
    config: SamplesConfig,
    *,
    data: pipeline.DataConfig,
    plan: layout.Layout,
    sampling: denoise.ImageSampling,
    rows: int,
  ):
    """Chooses the examples.

    Args:
      config: how many.
      data: of the run.
      plan: of its documents.
      sampling: how images are drawn.
      rows: examples that go through the model at a time.

    Raises:
      evaluator.Unsuited: no document with an image is held out.
    """
    self._config, self._sampling, self._rows = config, sampling, rows
    own = own_documents.OwnDocuments(data, plan, seed=config.seed)
    count = max(config.prompts, config.captions, config.images)
    asked = own_documents
    found = own.choose(2 * count, lambda one: _pixels(one) and own.fits(one), 'images')
    self._moments = own.moments
    self._draws = _some(map(asked.to_draw, found), config.prompts)
    self._says = _some(map(asked.to_say, found), config.captions)
    shown = [each for one in found for each in one if isinstance(each, documents.Image)]
    self._images = shown[: config.images]

  def check(self) -> None:
    """Nothing is left to try: the examples were read when they were chosen."""

  def __call__(
    self, writer: writer_lib.Writer
  ) -> Iterator[tuple[str, evaluator.Value]]:
    """Drawings, captions and reconstructions, of what there is."""
    if self._draws:
      yield 'drawings', self._drawings(writer)
    if self._says:
      yield 'captions', self._captions(writer)
    if self._moments:
      log.once(
        'evaluation: latents are stored instead of images (data.moments), so that '
        'what they are decoded to is shown, and no reconstructions'
      )
    elif self._images:
      yield from self._reconstructions(writer)

  def _drawings(self, writer: writer_lib.Writer) -> report.Gallery:
    asked = [self._seen(writer, each) for each in self._draws]
    keys = jax.random.split(jax.random.key(self._config.seed), len(asked))

    def draw(part: slice) -> list[np.ndarray]:
      prompts = [
        writer.layout.prompt(given, open_image=True) for given, _ in asked[part]
      ]
      return list(writer.draw_after(prompts, keys[part], self._sampling))

    drawn = self._in_rows(draw, len(asked))
    tiles = [
      report.Tile(
        trajectories.joined([*_pixels(given), picture, true.pixels]),
        own_documents.joined_text(given),
        good=None,
      )
      for (given, true), picture in zip(asked, drawn, strict=True)
    ]
    note = (
      'Prompts that were not trained on, drawn at random. Left: what the model draws. '
      'Right: the image that belongs to the prompt in the data.'
    )
    return report.Gallery('Drawings of held-out prompts', note, tiles)

  def _captions(self, writer: writer_lib.Writer) -> report.Gallery:
    asked = [self._seen(writer, each) for each in self._says]

    def say(part: slice) -> list[str]:
      prompts = [
        writer.layout.prompt(given, open_image=False) for given, _ in asked[part]
      ]
      text, limit = logits_lib.GREEDY, self._config.limit
      return writer.complete(prompts, None, text, limit=limit)

    tiles = []
    for (given, true), said in zip(asked, self._in_rows(say, len(asked)), strict=True):
      before, right = own_documents.joined_text(given), true.text.strip()
      tiles.append(
        report.Tile(
          trajectories.joined(_pixels(given)),
          f'{before} {said}'.strip() or '(nothing)',
          good=None,
          truth=right,
        )
      )
    note = (
      'Images that were not trained on, drawn at random: what the model says of them, '
      'and what the data says.'
    )
    return report.Gallery('Captions of held-out images', note, tiles)

  def _reconstructions(
    self, writer: writer_lib.Writer
  ) -> Iterator[tuple[str, evaluator.Value]]:
    given = np.stack([each.pixels for each in self._images])
    made = np.asarray(_again(writer.codec, given))
    decibels = [psnr(*pair) for pair in zip(given, made, strict=True)]
    yield 'psnr', float(np.mean(decibels))
    tiles = [
      report.Tile(trajectories.joined([one, other]), f'{found:.1f} dB', good=None)
      for one, other, found in zip(given, made, decibels, strict=True)
    ]
    note = (
      'Left: held-out images. Right: what the autoencoder makes of them, which is the '
      'best that the model can draw. PSNR in decibels, the higher the better.'
    )
    yield 'reconstructions', report.Gallery('Reconstructions', note, tiles)

  def _seen(self, writer: writer_lib.Writer, asked: Asked) -> Asked:
    """The same with pixels, where moments of latents are stored."""
    if not self._moments:
      return asked
    given, true = asked
    decoded = [_decoded(writer, each) for each in (*given, true)]
    return tuple(decoded[:-1]), decoded[-1]

  def _in_rows(self, make: Callable[[slice], list[Any]], count: int) -> list[Any]:
    """Results of `make` for so many examples, called on some at a time."""
    starts = range(0, count, self._rows)
    return [each for start in starts for each in make(slice(start, start + self._rows))]


def psnr(one: UInt8[np.ndarray, 'h w 3'], other: UInt8[np.ndarray, 'h w 3']) -> float:
  """Peak signal-to-noise ratio of two images in dB; that of rounding at most."""
  error = np.mean(np.square(one.astype(np.float64) - other))
  return float(10 * np.log10(255**2 / max(error, ROUNDING)))


def _some(found: Iterable[Asked | None], count: int) -> list[Asked]:
  return [each for each in found if each is not None][:count]


def _pixels(document: documents.Document) -> list[np.ndarray]:
  return [each.pixels for each in document if isinstance(each, documents.Image)]


def _decoded(
  writer: writer_lib.Writer, part: documents.Text | documents.Image
) -> documents.Text | documents.Image:
  """An image of moments with the pixels that its autoencoder decodes them to."""
  if isinstance(part, documents.Text):
    return part
  moments = jnp.asarray(part.pixels, jnp.float32)[None]
  pixels = np.asarray(_decode(writer.codec, moments)[0])
  return dataclasses.replace(part, pixels=pixels)


@jax.jit
def _decode(codec, moments):
  return codec.decode(codec.scaled(kl.Posterior.of(moments), None))


@jax.jit
def _again(codec, pixels):
  return codec.decode(codec.encode(pixels))
