"""Documents: prompts of text and pictures in, continuations of both out.

A batch of requests is read run by run (text, picture, text, ...), whatever each request
holds: rows without a run at some point wait. Continuations alternate between writing
text until BOI or the end, and denoising a picture, which is entered clean before text
goes on.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from transfusion_jax.data import layout, tokenizers
from transfusion_jax.diffusion import path as path_lib
from transfusion_jax.generation import image, text
from transfusion_jax.generation import session as session_lib
from transfusion_jax.models import codec as codec_lib
from transfusion_jax.models import transfusion

_PAD = 16
"""Prompt lengths are padded to multiples of this, so that few shapes are compiled."""


@dataclasses.dataclass(frozen=True)
class Run:
  """Text ids and, behind them, at most one picture: what is read in one go."""

  tokens: tuple[int, ...]
  picture: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Piece:
  """A part of a continuation: words, or a picture as uint8 pixels [h, w, 3]."""

  text: str | None
  picture: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Writer:
  """A trained model with all that turns it into pictures and sentences.

  Attributes:
    model: the transformer, with trained (or averaged) parameters.
    codec: pixels to latents and back.
    tokenizer: of the model's training.
    layout: from documents to sequences, as in training.
    path: of the model's training.
    target: what the model predicts.
    latents: height, width and channels of a picture's latents.
    context: positions that a row can hold.
  """

  model: transfusion.Transfusion
  codec: codec_lib.Codec
  tokenizer: tokenizers.Tokenizer
  layout: layout.Layout
  path: path_lib.Path
  target: path_lib.Target
  latents: tuple[int, int, int]
  context: int

  def draw(
    self, prompts: Sequence[str], keys: Key[Array, ' b'], sampling: image.ImageSampling
  ) -> np.ndarray:
    """One picture for every prompt, uint8 [b, h, w, 3]; `keys` has one per prompt."""
    block = self.model.patches(self.latents[:2])
    prefixes = [self.layout.picture_prompt(prompt) for prompt in prompts]
    session = self.read(prefixes, room=block)
    active = jnp.ones((len(prompts),), bool)
    _, latents = self._image(session, keys, active, sampling)
    return np.asarray(_decode(self.codec, latents))

  def caption(self, pictures: Sequence[np.ndarray], *, limit: int) -> list[str]:
    """What the model says of each picture, word by word the likeliest."""
    prefixes = [self.layout.caption_prompt(picture) for picture in pictures]
    session = self.read(prefixes, room=1)
    count = len(pictures)
    keys = jax.random.split(jax.random.key(0), count)
    active = jnp.ones((count,), bool)
    stops = (self.tokenizer.special.eos, self.tokenizer.special.boi)
    limit = min(limit, self.context - int(jnp.max(session.length)))
    _, tokens = self._text(
      session, keys, active, stops=stops, limit=limit, temperature=0.0
    )
    return [self._words(row, stops) for row in np.asarray(tokens)]

  def go_on(
    self,
    prompts: Sequence[layout.Sequence],
    keys: Key[Array, ' b'],
    sampling: image.ImageSampling,
    *,
    temperature: float,
    pictures: int,
  ) -> list[list[Piece]]:
    """Continues documents freely, text and at most `pictures` pictures in turn."""
    session = self.read(prompts)
    boi, eos = self.tokenizer.special.boi, self.tokenizer.special.eos
    pieces: list[list[Piece]] = [[] for _ in prompts]
    active = jnp.ones((len(prompts),), bool)
    for turn in range(pictures + 1):
      turn_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, turn)
      fresh = jax.vmap(jax.random.split)(turn_keys)
      room = self._room(session)
      stops = (eos, boi) if room > 0 and turn < pictures else (eos,)
      limit = max(self.context - int(jnp.max(session.length)), 0)
      if not limit:
        break
      session, tokens = self._text(
        session, fresh[:, 0], active, stops=stops, limit=limit, temperature=temperature
      )
      rows = np.asarray(tokens)
      for piece, row, going in zip(pieces, rows, np.asarray(active), strict=True):
        words = self._words(row, (eos, boi))
        if going and words:
          piece.append(Piece(words, None))
      opened = (rows == boi).any(axis=1) & np.asarray(active)
      opened &= np.asarray(session.length) + self._block() <= self.context
      active = jnp.asarray(opened)
      if not opened.any():
        break
      session = self._one(session, boi, active)
      session, latents = self._image(session, fresh[:, 1], active, sampling)
      session = self._one(session, self.tokenizer.special.eoi, active)
      drawn = np.asarray(_decode(self.codec, latents))
      for piece, picture, going in zip(pieces, drawn, opened, strict=True):
        if going:
          piece.append(Piece(None, picture))
    return pieces

  def read(
    self, prompts: Sequence[layout.Sequence], *, room: int = 0
  ) -> session_lib.Session:
    """Reads prompts of any mixture of text and pictures, one row each.

    Args:
      prompts: what is read.
      room: positions that are to be written behind each.

    Raises:
      ValueError: a prompt is longer than the context.
    """
    longest = max(len(prompt.tokens) for prompt in prompts)
    if longest + room > self.context:
      raise ValueError(
        f'expected prompts of at most {self.context - room} positions, found '
        f'{longest}; shorten the prompt, or train with a longer data.row_length'
      )
    rows = [runs(prompt) for prompt in prompts]
    # A row that waits is written to as well, behind its end: there must be room.
    slack = max(_PAD, self.model.patches(self.latents[:2]))
    session = session_lib.start(
      self.model, batch=len(rows), length=self.context + slack
    )
    for index in range(max(len(row) for row in rows)):
      here = [row[index] if index < len(row) else Run((), None) for row in rows]
      session = self._read_runs(session, here)
    return session

  def _read_runs(self, session, here: list[Run]):
    longest = max(len(run.tokens) for run in here)
    if longest:
      width = -(-longest // _PAD) * _PAD
      tokens = np.full((len(here), width), self.tokenizer.special.pad, np.int32)
      for row, run in zip(tokens, here, strict=True):
        row[: len(run.tokens)] = run.tokens
      count = np.array([len(run.tokens) for run in here], np.int32)
      session = _read_text(self.model, session, jnp.asarray(tokens), jnp.asarray(count))
    shown = [run.picture for run in here if run.picture is not None]
    if not shown:
      return session
    pixels = np.stack(
      [np.zeros_like(shown[0]) if r.picture is None else r.picture for r in here]
    )
    active = jnp.asarray([run.picture is not None for run in here])
    return _read_pixels(self.model, self.codec, session, jnp.asarray(pixels), active)

  def _image(self, session, keys, active: Bool[Array, ' b'], sampling):
    null = self.read([self.layout.picture_prompt('')] * session.length.shape[0])
    return image.write_image(
      self.model,
      session,
      null,
      keys,
      active,
      shape=self.latents,
      path=self.path,
      target=self.target,
      sampling=sampling,
    )

  def _text(self, session, keys, active, *, stops, limit, temperature):
    allowed = np.zeros((self.model.table,), bool)
    allowed[: self.tokenizer.base_size] = True
    allowed[list(stops)] = True
    return text.write_text(
      self.model,
      session,
      keys,
      active,
      jnp.asarray(allowed),
      limit=jnp.asarray(limit),
      width=self.context,
      stops=stops,
      temperature=temperature,
    )

  def _one(self, session, token: int, active: Bool[Array, ' b']):
    tokens = jnp.full((active.shape[0], 1), token, jnp.int32)
    return _read_text(self.model, session, tokens, active.astype(jnp.int32))

  def _block(self) -> int:
    return self.model.patches(self.latents[:2]) + 2

  def _room(self, session) -> int:
    return self.context - int(jnp.min(session.length)) - self._block()

  def _words(self, row: np.ndarray, stops: tuple[int, ...]) -> str:
    ids = [int(token) for token in row if token >= 0 and token not in stops]
    return self.tokenizer.decode(ids)


def runs(prompt: layout.Sequence) -> list[Run]:
  """A sequence as runs: text up to a picture, the picture, text up to the next, ..."""
  found: list[Run] = []
  tokens: list[int] = []
  pictures = 0
  for token, slot in zip(prompt.tokens.tolist(), prompt.slot.tolist(), strict=True):
    if slot < 0:
      tokens.append(token)
    elif slot % prompt.patches == 0:
      found.append(Run(tuple(tokens), prompt.images[pictures]))
      pictures, tokens = pictures + 1, []
  if tokens:
    found.append(Run(tuple(tokens), None))
  return found


_read_text: Callable = jax.jit(session_lib.read_text)


@jax.jit
def _read_pixels(model, codec, session, pixels, active):
  return session_lib.read_image(model, session, codec.encode(pixels), active)


@jax.jit
def _decode(codec, latents):
  return codec.decode(latents)
