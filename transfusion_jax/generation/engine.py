"""Requests in, continuations out: what stands between people and the compiled sampler.

Prompts are padded to one shape and read in one go; what the sampler gives is cut into
words and pictures again. `generation/writer.py` has the tasks that people ask for.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from transfusion_jax.data.rows import layout
from transfusion_jax.data.text import tokenizers
from transfusion_jax.diffusion import path as path_lib
from transfusion_jax.generation import mixed, programs
from transfusion_jax.generation import requests as requests_lib
from transfusion_jax.generation import session as session_lib
from transfusion_jax.generation.samplers import denoise
from transfusion_jax.models import transfusion
from transfusion_jax.models.codecs import codec as codec_lib

_PAD = 32
"""Lengths are rounded up to multiples of this, so that few shapes are compiled."""

_STRIDE = 32
"""Tokens after which stop strings are looked for."""


@dataclasses.dataclass(frozen=True)
class Engine:
  """A trained model with all that turns it into pictures and sentences.

  Attributes:
    model: the transformer, with trained (or averaged) parameters, on one device or
      divided over a mesh.
    codec: pixels to latents and back; None where there are no pictures.
    tokenizer: of the model's training.
    layout: from documents to sequences, as in training.
    path: of the model's training.
    target: what the model predicts.
    latents: height, width and channels of a picture's latents.
    context: positions that a row can hold.
  """

  model: transfusion.Transfusion
  codec: codec_lib.Codec | None
  tokenizer: tokenizers.Tokenizer
  layout: layout.Layout
  path: path_lib.Path
  target: path_lib.Target
  latents: tuple[int, int, int]
  context: int

  def write(
    self,
    requests: Sequence[requests_lib.Request],
    sampling: denoise.ImageSampling,
    *,
    stop: Sequence[str] = (),
    given: requests_lib.Given | None = None,
  ) -> list[list[requests_lib.Piece]]:
    """Continues documents, all in one batch: text, pictures, and text again.

    Args:
      requests: what is continued.
      sampling: how pictures are drawn.
      stop: strings before which a document ends.
      given: what is given of the pictures, if anything.

    Raises:
      ValueError: a prompt leaves no room, or there is no codec for pictures.
    """
    self._check(requests)
    plan = self._plan(requests, sampling, given)
    # With stop strings rows may wait in the middle of a text while others draw, and are
    # written to, behind their end, by what those read.
    slack = self.block if stop and plan.draws else 0
    rows, params = self._begin(requests, plan, slack)
    anchor = None if given is None else self._anchor(given)
    step = functools.partial(
      programs.on_mesh(self.mesh).write,
      self.model,
      params=params,
      anchor=anchor,
      plan=plan,
    )
    if not stop:
      rows = step(rows=rows, turns=self.context, stride=self.context)
      return self._pieces(rows)
    while np.any(np.asarray(rows.mode) != mixed.DONE):
      rows = step(rows=rows, turns=1, stride=_STRIDE)
      said = [self._words(row) for row in np.asarray(rows.tokens)]
      found = np.array([any(end in words for end in stop) for words in said])
      mode = jnp.where(jnp.asarray(found), mixed.DONE, rows.mode)
      rows = dataclasses.replace(rows, mode=mode)
    return [requests_lib.cut(pieces, stop) for pieces in self._pieces(rows)]

  def trajectory(
    self,
    requests: Sequence[requests_lib.Request],
    sampling: denoise.ImageSampling,
    *,
    stages: int,
  ) -> UInt8[np.ndarray, 'b stages h w 3']:
    """Expected clean image at stages of the denoising of the next image.

    Args:
      requests: documents that end in BOI.
      sampling: how pictures are drawn.
      stages: predictions, of steps evenly spread; the last is the picture itself.

    Raises:
      ValueError: as `write`, or more stages than steps.
    """
    if not 1 <= stages <= sampling.steps:
      raise ValueError(
        f'expected from 1 to {sampling.steps} stages of as many denoising steps, found '
        f'{stages}; ask for fewer, or raise sampling.steps'
      )
    self._check(requests)
    plan = self._plan(requests, sampling, None)
    rows, params = self._begin(requests, plan, 0)
    program = programs.on_mesh(self.mesh).trajectory
    return self._decode(program(self.model, rows, params, stages, plan))

  def score(
    self,
    prompts: Sequence[layout.Sequence],
    continuations: Sequence[str | Sequence[int]],
  ) -> list[requests_lib.Score]:
    """Log-likelihood of each continuation after its prompt.

    Args:
      prompts: beginnings of documents, pictures and all.
      continuations: texts, which are encoded by themselves, or their ids.

    Raises:
      ValueError: both together are longer than the context.
    """
    ids = [
      self.tokenizer.encode(each) if isinstance(each, str) else list(each)
      for each in continuations
    ]
    longest = max(len(p.tokens) + len(i) for p, i in zip(prompts, ids, strict=True))
    if longest > self.context:
      raise ValueError(
        f'expected a prompt and a continuation of at most {self.context} positions, '
        f'found {longest}; shorten them, or train with a longer data.row_length'
      )
    width = _round_up(max(1, *map(len, ids)))
    tokens = np.zeros((len(ids), width), np.int32)
    for row, each in zip(tokens, ids, strict=True):
      row[: len(each)] = each
    count = np.array([len(each) for each in ids], np.int32)
    session = self.read(prompts, room=width)
    nats, greedy = programs.on_mesh(self.mesh).score(
      self.model, session, jnp.asarray(tokens), jnp.asarray(count)
    )
    found = zip(np.asarray(nats), count, np.asarray(greedy), strict=True)
    return [requests_lib.Score(float(n), int(c), bool(g)) for n, c, g in found]

  def read(
    self, prompts: Sequence[layout.Sequence], *, room: int = 0
  ) -> session_lib.Session:
    """Reads prompts of any mixture of text and pictures, one row each.

    Args:
      prompts: what is read.
      room: positions that are to be written behind each.
    """
    width = _round_up(max(len(prompt) for prompt in prompts))
    pictures = max(len(prompt.images) for prompt in prompts)
    side = next((p.images.shape[1:] for p in prompts if len(p.images)), (0, 0, 3))
    pixels = np.zeros((len(prompts), pictures, *side), np.uint8)
    fields = {
      name: np.full((len(prompts), width), fill, np.int32)
      for name, fill in (
        ('tokens', self.tokenizer.special.pad),
        ('slot', -1),
        ('end', 0),
      )
    }
    for row, prompt in enumerate(prompts):
      pixels[row, : len(prompt.images)] = prompt.images if len(prompt.images) else 0
      for name, field in fields.items():
        field[row, : len(prompt)] = getattr(prompt, name)
    count = np.array([len(prompt) for prompt in prompts], np.int32)
    compiled = programs.on_mesh(self.mesh)
    if pictures:
      flat = compiled.encode(self.codec, pixels.reshape(-1, *side))
      images = flat.reshape(len(prompts), pictures, *self.latents)
    else:
      images = jnp.zeros((len(prompts), 0, *self.latents), jnp.float32)
    made = session_lib.Prompts(
      **jax.tree.map(jnp.asarray, fields), images=images, count=jnp.asarray(count)
    )
    return compiled.read(self.model, made, _round_up(width + room))

  @property
  def mesh(self) -> Mesh | None:
    """Over which the model is divided."""
    return getattr(jax.tree.leaves(self.model)[0].sharding, 'mesh', None)

  @property
  def block(self) -> int:
    """Positions that a picture takes behind its BOI."""
    return self.model.patches(self.latents[:2]) + 1

  def _check(self, requests: Sequence[requests_lib.Request]) -> None:
    for request in requests:
      opened = bool(request.pictures) and self._opened(request.prompt)
      room = self.context - (self.block - 1 if opened else 1)
      if len(request.prompt) > room:
        raise ValueError(
          f'expected prompts of at most {room} positions, found '
          f'{len(request.prompt)}; shorten the prompt, or train with a longer '
          'data.row_length'
        )
      if self.codec is None and (request.pictures or len(request.prompt.images)):
        raise ValueError(
          'expected text alone of a model that was trained without pictures '
          '(data.image_slots=0), found a picture; leave it out'
        )

  def _plan(self, requests, sampling, given) -> mixed.SamplingPlan:
    special = self.tokenizer.special
    filters = [(r.text.top_k, r.text.top_p, r.text.min_p) for r in requests]
    begin = 1.0 if given is None else given.strength
    return mixed.SamplingPlan(
      drawing=denoise.Drawing(self.latents, self.path, self.target, sampling, begin),
      writes=any(request.text.limit for request in requests),
      draws=any(request.pictures for request in requests),
      filtered=any(each != (0, 1.0, 0.0) for each in filters),
      context=self.context,
      eos=special.eos,
      boi=special.boi,
      eoi=special.eoi,
      null=tuple(self.layout.null().tokens.tolist()),
    )

  def _begin(
    self, requests, plan: mixed.SamplingPlan, slack: int
  ) -> tuple[mixed.Rows, mixed.SamplingParams]:
    """Reads the prompts and sets up what is written behind them."""
    texts = [request.text for request in requests]
    limits = np.array([min(text.limit, self.context) for text in texts], np.int32)
    pictures = np.array([request.pictures for request in requests], np.int32)
    longest = max(len(request.prompt) for request in requests)
    needed = int(np.max(limits + pictures * (self.block + 1)))
    room = min(needed, self.context - longest) + slack
    session = self.read([request.prompt for request in requests], room=room)
    opened = np.array([self._opened(request.prompt) for request in requests])
    waits = np.where(limits > 0, mixed.TEXT, mixed.DONE)
    b, slots = len(requests), int(pictures.max())
    rows = mixed.Rows(
      session=session,
      mode=jnp.asarray(
        np.where(opened & (pictures > 0), mixed.IMAGE, waits), jnp.int32
      ),
      tokens=jnp.full(
        (b, min(_round_up(int(limits.max())), self.context)), -1, jnp.int32
      ),
      count=jnp.zeros((b,), jnp.int32),
      latents=jnp.zeros((b, slots, *self.latents), jnp.float32),
      before=jnp.zeros((b, slots), jnp.int32),
      drawn=jnp.zeros((b,), jnp.int32),
    )
    allowed = np.zeros((self.model.table,), bool)
    allowed[: self.tokenizer.base_size] = True
    allowed[[plan.eos, plan.boi]] = True
    return rows, requests_lib.sampling_params(requests, limits, jnp.asarray(allowed))

  def _opened(self, prompt: layout.Sequence) -> bool:
    return bool(prompt.tokens[-1] == self.tokenizer.special.boi)

  def _anchor(self, given: requests_lib.Given) -> denoise.Anchor:
    pixels = np.stack(given.pictures)
    latents = programs.on_mesh(self.mesh).encode(self.codec, pixels)
    known = np.zeros((len(pixels), *self.latents[:2]), bool)
    if given.masks is not None:
      side = [a // b for a, b in zip(pixels.shape[1:3], self.latents[:2], strict=True)]
      masks = np.stack(given.masks).reshape(
        len(pixels), self.latents[0], side[0], self.latents[1], side[1]
      )
      known = ~masks.any(axis=(2, 4))
    return denoise.Anchor(latents, jnp.asarray(known))

  def _pieces(self, rows: mixed.Rows) -> list[list[requests_lib.Piece]]:
    """Pieces that were written, in order."""
    tokens, before, drawn = map(np.asarray, (rows.tokens, rows.before, rows.drawn))
    pictures = rows.latents
    if drawn.any():
      pictures = self._decode(rows.latents)
    found = []
    for row, ids in enumerate(tokens):
      pieces, begin = [], 0
      for number in range(drawn[row]):
        end = before[row, number]
        pieces += self._text_piece(ids[begin:end])
        pieces.append(requests_lib.Piece(None, pictures[row, number]))
        begin = end
      found.append(pieces + self._text_piece(ids[begin:]))
    return found

  def _decode(
    self, latents: Float[Array, 'b p h w c']
  ) -> UInt8[np.ndarray, 'b p y x 3']:
    b, p = latents.shape[:2]
    flat = latents.reshape(b * p, *self.latents)
    pixels = np.asarray(programs.on_mesh(self.mesh).decode(self.codec, flat))
    return pixels.reshape(b, p, *pixels.shape[1:])

  def _text_piece(self, ids: np.ndarray) -> list[requests_lib.Piece]:
    words = self._words(ids)
    return [requests_lib.Piece(words, None)] if words else []

  def _words(self, ids: np.ndarray) -> str:
    return self.tokenizer.decode(int(each) for each in ids if each >= 0)


def _round_up(length: int) -> int:
  return -(-length // _PAD) * _PAD
