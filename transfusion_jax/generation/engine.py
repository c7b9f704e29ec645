"""Requests in, continuations out: what stands between people and the compiled sampler.

Prompts are padded to one shape and read in one go; what the sampler gives is cut into
words and pictures again. `generation/writer.py` has the tasks that people ask for.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key, UInt8

from transfusion_jax.core import sharding
from transfusion_jax.data import layout, tokenizers
from transfusion_jax.diffusion import path as path_lib
from transfusion_jax.generation import image, mixed
from transfusion_jax.generation import logits as logits_lib
from transfusion_jax.generation import session as session_lib
from transfusion_jax.models import codec as codec_lib
from transfusion_jax.models import transfusion

_PAD = 32
"""Lengths are rounded up to multiples of this, so that few shapes are compiled."""

_STRIDE = 32
"""Tokens after which stop strings are looked for."""

Picture = UInt8[np.ndarray, 'h w 3']


@dataclasses.dataclass(frozen=True)
class Request:
  """A document to be continued.

  Attributes:
    prompt: its beginning; one that ends in BOI goes on with a picture.
    key: of all that is drawn by lot.
    text: how text is written.
    pictures: most pictures that are drawn; with the next one the document ends.
  """

  prompt: layout.Sequence
  key: Key[Array, '']
  text: logits_lib.TextSampling
  pictures: int


@dataclasses.dataclass(frozen=True)
class Piece:
  """A part of a continuation: words, or a picture as uint8 pixels [h, w, 3]."""

  text: str | None
  picture: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Score:
  """How likely a continuation is.

  Attributes:
    nats: its negative log-probability.
    tokens: over which `nats` is the sum.
    greedy: whether it is what the model itself would write.
  """

  nats: float
  tokens: int
  greedy: bool


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
    requests: Sequence[Request],
    sampling: image.ImageSampling,
    *,
    stop: Sequence[str] = (),
    given: 'Given | None' = None,
  ) -> list[list[Piece]]:
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
    rows, wishes = self._begin(requests, plan)
    anchor = None if given is None else self._anchor(given)
    step = functools.partial(
      _programs(self.mesh).write, self.model, wishes=wishes, anchor=anchor, plan=plan
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
    return [_cut(pieces, stop) for pieces in self._pieces(rows)]

  def score(
    self, prompts: Sequence[layout.Sequence], continuations: Sequence[str]
  ) -> list[Score]:
    """How likely each continuation is behind its prompt.

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
    nats, greedy = _programs(self.mesh).score(
      self.model, session, jnp.asarray(tokens), jnp.asarray(count)
    )
    found = zip(np.asarray(nats), count, np.asarray(greedy), strict=True)
    return [Score(float(n), int(c), bool(g)) for n, c, g in found]

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
    programs = _programs(self.mesh)
    if pictures:
      flat = programs.encode(self.codec, pixels.reshape(-1, *side))
      images = flat.reshape(len(prompts), pictures, *self.latents)
    else:
      images = jnp.zeros((len(prompts), 0, *self.latents), jnp.float32)
    made = session_lib.Prompts(
      **jax.tree.map(jnp.asarray, fields), images=images, count=jnp.asarray(count)
    )
    return programs.read(self.model, made, _round_up(width + room))

  @functools.cached_property
  def mesh(self) -> Mesh | None:
    """Over which the model is divided."""
    return getattr(jax.tree.leaves(self.model)[0].sharding, 'mesh', None)

  @property
  def block(self) -> int:
    """Positions that a picture takes behind its BOI."""
    return self.model.patches(self.latents[:2]) + 1

  def _check(self, requests: Sequence[Request]) -> None:
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

  def _plan(self, requests, sampling, given) -> mixed.Plan:
    special = self.tokenizer.special
    filters = [(r.text.top_k, r.text.top_p, r.text.min_p) for r in requests]
    begin = 1.0 if given is None else given.strength
    return mixed.Plan(
      drawing=image.Drawing(self.latents, self.path, self.target, sampling, begin),
      writes=any(request.text.limit for request in requests),
      draws=any(request.pictures for request in requests),
      filtered=any(each != (0, 1.0, 0.0) for each in filters),
      context=self.context,
      eos=special.eos,
      boi=special.boi,
      eoi=special.eoi,
      null=tuple(self.layout.null().tokens.tolist()),
    )

  def _begin(self, requests, plan: mixed.Plan) -> tuple[mixed.Rows, mixed.Wishes]:
    """Reads the prompts and sets up what is written behind them."""
    texts = [request.text for request in requests]
    limits = np.array([min(text.limit, self.context) for text in texts], np.int32)
    pictures = np.array([request.pictures for request in requests], np.int32)
    longest = max(len(request.prompt) for request in requests)
    needed = int(np.max(limits + pictures * (self.block + 1)))
    session = self.read(
      [request.prompt for request in requests], room=min(needed, self.context - longest)
    )
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
    keys = jnp.stack([request.key for request in requests])
    text_keys, image_keys = (
      jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, which) for which in (0, 1)
    )
    choices = logits_lib.Choices(
      temperature=jnp.asarray([text.temperature for text in texts], jnp.float32),
      top_k=jnp.asarray([text.top_k for text in texts], jnp.int32),
      top_p=jnp.asarray([text.top_p for text in texts], jnp.float32),
      min_p=jnp.asarray([text.min_p for text in texts], jnp.float32),
    )
    allowed = np.zeros((self.model.table,), bool)
    allowed[: self.tokenizer.base_size] = True
    allowed[[plan.eos, plan.boi]] = True
    return rows, mixed.Wishes(
      text_keys=text_keys,
      image_keys=image_keys,
      choices=choices,
      limit=jnp.asarray(limits),
      pictures=jnp.asarray(pictures),
      allowed=jnp.asarray(allowed),
    )

  def _opened(self, prompt: layout.Sequence) -> bool:
    return bool(prompt.tokens[-1] == self.tokenizer.special.boi)

  def _anchor(self, given: 'Given') -> image.Anchor:
    pixels = np.stack(given.pictures)
    latents = _programs(self.mesh).encode(self.codec, pixels)
    known = np.zeros((len(pixels), *self.latents[:2]), bool)
    if given.masks is not None:
      side = [a // b for a, b in zip(pixels.shape[1:3], self.latents[:2], strict=True)]
      masks = np.stack(given.masks).reshape(
        len(pixels), self.latents[0], side[0], self.latents[1], side[1]
      )
      known = ~masks.any(axis=(2, 4))
    return image.Anchor(latents, jnp.asarray(known))

  def _pieces(self, rows: mixed.Rows) -> list[list[Piece]]:
    """What was written, in order."""
    tokens, before, drawn = map(np.asarray, (rows.tokens, rows.before, rows.drawn))
    pictures = rows.latents
    if drawn.any():
      b, p = rows.latents.shape[:2]
      flat = rows.latents.reshape(b * p, *self.latents)
      pixels = np.asarray(_programs(self.mesh).decode(self.codec, flat))
      pictures = pixels.reshape(b, p, *pixels.shape[1:])
    found = []
    for row, ids in enumerate(tokens):
      pieces, begin = [], 0
      for number in range(drawn[row]):
        end = before[row, number]
        pieces += self._text_piece(ids[begin:end])
        pieces.append(Piece(None, pictures[row, number]))
        begin = end
      found.append(pieces + self._text_piece(ids[begin:]))
    return found

  def _text_piece(self, ids: np.ndarray) -> list[Piece]:
    words = self._words(ids)
    return [Piece(words, None)] if words else []

  def _words(self, ids: np.ndarray) -> str:
    return self.tokenizer.decode(int(each) for each in ids if each >= 0)


@dataclasses.dataclass(frozen=True)
class Given:
  """Pictures that are changed instead of being drawn from nothing.

  Attributes:
    pictures: one per request, pixels.
    masks: True where a picture is to be drawn anew; None: everywhere.
    strength: noise level at which denoising begins; 1 is from nothing.
  """

  pictures: Sequence[Picture]
  masks: Sequence[np.ndarray] | None
  strength: float

  def __post_init__(self):
    if not 0 < self.strength <= 1:
      raise ValueError(
        f'expected a strength above 0 and up to 1, found {self.strength}; change it'
      )
    for picture, mask in zip(self.pictures, self.masks or (), strict=bool(self.masks)):
      if mask.shape != picture.shape[:2] or mask.dtype != bool:
        raise ValueError(
          f'expected a mask of {picture.shape[:2]} booleans, found {mask.shape} '
          f'{mask.dtype}; make it as large as the picture'
        )


def _cut(pieces: list[Piece], stop: Sequence[str]) -> list[Piece]:
  """The pieces before the first stop string."""
  kept = []
  for piece in pieces:
    ends = [piece.text.find(end) for end in stop] if piece.text is not None else []
    ends = [end for end in ends if end >= 0]
    if ends:
      return [*kept, *([Piece(piece.text[: min(ends)], None)] if min(ends) else [])]
    kept.append(piece)
  return kept


def _round_up(length: int) -> int:
  return -(-length // _PAD) * _PAD


@dataclasses.dataclass(frozen=True)
class _Programs:
  """What is compiled, once for every mesh."""

  read: Callable
  score: Callable
  write: Callable
  encode: Callable
  decode: Callable


@functools.cache
def _programs(mesh: Mesh | None) -> _Programs:
  on = (lambda f: f) if mesh is None else functools.partial(sharding.on, mesh)

  def read(model, prompts, length):
    return session_lib.read(model, prompts, length=length)

  def write(model, rows, wishes, anchor, turns, stride, plan):
    return mixed.write(model, rows, wishes, anchor, turns, stride, plan)

  written = jax.jit(on(write), static_argnums=(6,), donate_argnums=(1,))
  return _Programs(
    read=jax.jit(on(read), static_argnums=(2,)),
    score=jax.jit(on(session_lib.score)),
    write=lambda model, *, rows, wishes, anchor, turns, stride, plan: written(
      model, rows, wishes, anchor, turns, stride, plan
    ),
    encode=jax.jit(lambda codec, pixels: codec.encode(pixels)),
    decode=jax.jit(lambda codec, latents: codec.decode(latents)),
  )
