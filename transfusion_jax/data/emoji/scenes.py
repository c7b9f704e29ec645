"""Emoji scenes: an endless supply of real artwork with plain English captions.

Scene `index` of a split is a function of (seed, split, index) only. Some pairs of
objects and some combinations of object and colour are held out: they appear in no scene
of 'train' and 'test', and every scene of 'heldout' is built around one of them.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from transfusion_jax.data import documents
from transfusion_jax.data.emoji import captions, held_out, rendering
from transfusion_jax.data.emoji import glyphs as emoji_glyphs
from transfusion_jax.data.emoji import placement as emoji_placement

KINDS = ('single', 'count', 'pair', 'binding', 'story')
SPLITS = ('train', 'test', 'heldout')


@dataclasses.dataclass(frozen=True)
class EmojiScenesConfig:
  """Distribution of the scenes: kinds, sizes, shares.

  The weights of the kinds need not sum to 1. The mini-set is 16 glyphs, 6 colors, 32
  pixels, sprites (16,), placement 'grid'.

  Attributes:
    glyphs: how many emoji, the clearest first; 0: all of the safe set.
    colors: how many ground colours, the first of `emoji_glyphs.COLORS`.
    size: of a picture in pixels, a multiple of 4.
    sprites: possible sizes of an object in pixels, at most half of `size`.
    placement: 'grid' for fixed slots, 'free' for anywhere without overlap.
    single: weight of scenes with one object.
    count: weight of two to four of one kind.
    pair: weight of two objects in a relation.
    binding: weight of two objects, each on a tile of its own colour.
    story: weight of two or more pictures, one thing changing from each to the next.
    frames: most pictures in a story, 2 to 4.
    heldout: share of object pairs, and of object-colour combinations, held out.
    caption_first: share of scenes with the caption before the picture.
    caption_drop: share of those that go without their caption, for guidance.
    image_first_noise_cap: noise cap of a picture that precedes its caption.
    seed: of the scenes and of what is held out.
  """

  glyphs: int
  colors: int
  size: int
  sprites: tuple[int, ...]
  placement: Literal['grid', 'free']
  single: float
  count: float
  pair: float
  binding: float
  story: float
  frames: int
  heldout: float
  caption_first: float
  caption_drop: float
  image_first_noise_cap: float
  seed: int

  def __post_init__(self):
    for name in ('heldout', 'caption_first', 'caption_drop', 'image_first_noise_cap'):
      if not 0 <= getattr(self, name) <= 1:
        found = getattr(self, name)
        raise ValueError(f'expected {name} from 0 to 1, found {found}; use a share')
    weights = [getattr(self, kind) for kind in KINDS]
    if min(weights) < 0 or sum(weights) <= 0:
      raise ValueError(
        f'expected weights of at least 0 and one above, found {weights} for {KINDS}; '
        'raise one of them'
      )
    if self.size < 8 or self.size % 4:
      raise ValueError(
        f'expected a size that is a multiple of 4 and at least 8, found {self.size}; '
        f'use {max(8, self.size // 4 * 4)}'
      )
    if not self.sprites or not 4 <= min(self.sprites) <= max(self.sprites) <= (
      self.size // 2
    ):
      raise ValueError(
        f'expected sprites of 4 to {self.size // 2} pixels (half of size={self.size}), '
        f'found {self.sprites}; use smaller sprites or a larger size'
      )
    if not 2 <= self.colors <= len(emoji_glyphs.COLORS):
      raise ValueError(
        f'expected 2 to {len(emoji_glyphs.COLORS)} colors, found {self.colors}; '
        'use a number in between'
      )
    if self.glyphs == 1 or not 2 <= self.frames <= 4:
      raise ValueError(
        'expected at least 2 glyphs and 2 to 4 frames, found '
        f'glyphs={self.glyphs}, frames={self.frames}; change them'
      )


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
  """One picture, or the pictures of a story, and the order of text and images."""

  kind: str
  pictures: tuple[rendering.Picture, ...]
  caption_first: bool
  caption_dropped: bool
  noise_cap: float  # of a picture that precedes its caption

  @property
  def picture(self) -> rendering.Picture:
    """The only picture.

    Raises:
      ValueError: this is a story.
    """
    if len(self.pictures) != 1:
      raise ValueError(
        f'expected a scene of one picture, found a story of {len(self.pictures)}; '
        'take its `pictures` one by one'
      )
    return self.pictures[0]

  @property
  def caption(self) -> str:
    return self.picture.caption

  @property
  def pixels(self) -> UInt8[np.ndarray, 'h w 3']:
    return self.picture.pixels

  def document(self) -> documents.Document:
    """Text and images in the order of this scene; stories go text, image, text, ..."""
    segments = []
    for picture in self.pictures:
      cap = 1.0 if self.caption_first else self.noise_cap
      text = documents.Text(picture.caption, learn=True)
      image = documents.Image(picture.pixels, learn=True, noise_cap=cap)
      segments += [text, image] if self.caption_first else [image, text]
    return tuple(segments[1:] if self.caption_dropped else segments)


@runtime_checkable
class Source(Protocol):
  """Random access to scenes, drawn or stored."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Scene: ...


class EmojiScenes:
  """Random access to the scenes of one split."""

  def __init__(self, config: EmojiScenesConfig, split: str):
    """Raises ValueError for an unknown split, ImportError without the artwork."""
    if split not in SPLITS:
      raise ValueError(f'expected a split among {SPLITS}, found {split!r}; use one')
    self.config = config
    self.glyphs = emoji_glyphs.select(config.glyphs)
    self.colors = tuple(emoji_glyphs.COLORS)[: config.colors]
    self._names = tuple(glyph.name for glyph in self.glyphs)
    self._countable = [captions.countable(name) for name in self._names]
    self._stream = SPLITS.index(split)
    self._pool = held_out.choose(
      seed=config.seed,
      glyphs=len(self.glyphs),
      colors=config.colors,
      share=config.heldout,
      heldout=split == 'heldout',
    )
    weights = np.array([getattr(config, kind) for kind in KINDS], np.float64)
    self._edges = np.cumsum(weights / weights.sum())
    self._meanings = {
      'single': self._single,
      'count': self._count,
      'pair': self._pair,
      'binding': self._binding,
      'story': self._story,
    }

  def __len__(self) -> int:
    return 2**31 - 1  # the most that Grain can shuffle

  def __getitem__(self, index: int) -> Scene:
    config = self.config
    entropy = (config.seed, self._stream, int(index))
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
    kind_at, first_at, drop_at = rng.random(3)
    kind = KINDS[min(int(np.searchsorted(self._edges, kind_at, 'right')), 4)]
    caption_first = bool(first_at < config.caption_first) or kind == 'story'
    dropped = bool(drop_at < config.caption_drop)
    places = {}  # of a story: what stays in place keeps its place
    pictures = []
    for meaning in self._meanings[kind](rng):
      arrangement = meaning.names, meaning.relation
      if arrangement not in places:
        places[arrangement] = self._place(rng, meaning)
      pictures.append(
        rendering.draw(meaning, places[arrangement], config.size, bool(pictures))
      )
    return Scene(
      kind,
      tuple(pictures),
      caption_first,
      caption_dropped=dropped and caption_first and kind != 'story',
      noise_cap=config.image_first_noise_cap,
    )

  def _say(self, kind, objects, colors, relation=None) -> captions.Meaning:
    names = tuple(self._names[index] for index in objects)
    return captions.Meaning(
      kind, names, tuple(self.colors[index] for index in colors), relation
    )

  def _single(self, rng):
    thing, color = _pick(rng, self._pool.combinations)
    return (self._say('single', [thing], [color]),)

  def _count(self, rng):
    thing, color = _pick(rng, self._pool.combinations)
    while not self._countable[thing]:
      thing, color = _pick(rng, self._pool.combinations)
    count = int(rng.integers(2, 5))
    return (self._say('count', [thing] * count, [color] * count),)

  def _choose_pair(self, rng) -> tuple[int, int]:
    first, second = _pick(rng, self._pool.pairs)
    return (first, second) if rng.random() < 0.5 else (second, first)

  def _choose_colors(self, rng, things: Iterable[int]) -> int:
    """A colour that none of the things is held out with."""
    allowed = frozenset.intersection(*(self._pool.ordinary[thing] for thing in things))
    return _choose(rng, sorted(allowed))

  def _pair(self, rng):
    things = self._choose_pair(rng)
    color = self._choose_colors(rng, things)
    relation = _choose(rng, tuple(captions.RELATIONS))
    return (self._say('pair', things, [color] * 2, relation),)

  def _binding(self, rng):
    first, second = self._choose_pair(rng)
    color = self._choose_colors(rng, [first])
    other = _choose(rng, sorted(self._pool.ordinary[second] - {color}))
    relation = _choose(rng, tuple(captions.RELATIONS))
    return (self._say('binding', (first, second), (color, other), relation),)

  def _story(self, rng):
    """One object; then, in any order, another joins, moves, or the colour changes."""
    first, second = self._choose_pair(rng)
    relations = tuple(captions.RELATIONS)
    allowed = sorted(self._pool.ordinary[first] & self._pool.ordinary[second])
    color, relation = _choose(rng, allowed), None
    frames = int(rng.integers(2, self.config.frames + 1))
    joins = int(rng.integers(1, frames))
    meanings = [self._say('single', [first], [color])]
    for frame in range(1, frames):
      moves = frame > joins and rng.random() < 0.5
      if frame == joins or moves:
        relation = _choose(rng, [other for other in relations if other != relation])
      else:
        color = _choose(rng, [other for other in allowed if other != color])
      if relation is None:
        meanings.append(self._say('single', [first], [color]))
      else:
        meanings.append(self._say('pair', (first, second), [color] * 2, relation))
    return tuple(meanings)

  def _place(self, rng, meaning: captions.Meaning) -> list[tuple[int, int, int]]:
    """Left, top and size of every object."""
    config = self.config
    sizes = [_choose(rng, config.sprites) for _ in meaning.names]
    corners = emoji_placement.place(
      rng, meaning.kind, meaning.relation, sizes, config.size, config.placement
    )
    return [(x, y, size) for (x, y), size in zip(corners, sizes, strict=True)]


def vocabulary(config: EmojiScenesConfig) -> tuple[str, ...]:
  """Every word that a caption of these scenes can hold, sorted."""
  names = tuple(glyph.name for glyph in emoji_glyphs.select(config.glyphs))
  return captions.vocabulary(names, tuple(emoji_glyphs.COLORS)[: config.colors])


def longest_documents(
  config: EmojiScenesConfig, measure: Callable[[str], int]
) -> list[tuple[int, int]]:
  """For every kind with a weight: most pictures, and most text by `measure`."""
  names = [glyph.name for glyph in emoji_glyphs.select(config.glyphs)]
  names = tuple(sorted(names, key=measure)[:-3:-1])
  color = max(tuple(emoji_glyphs.COLORS)[: config.colors], key=measure)
  count = captions.Meaning('count', names[:1] * 4, (color,) * 4, None)
  single, pair, binding = (
    measure(captions.write(captions.Meaning(kind, things, colors, 'right')))
    for kind, things, colors in (
      ('single', names[:1], (color,)),
      ('pair', names, (color,) * 2),
      ('binding', names, (color,) * 2),
    )
  )
  then = measure(f'{captions.THEN} ')
  longest = {
    'single': (1, single),
    'count': (1, max(measure(captions.write(count)), single)),
    'pair': (1, pair),
    'binding': (1, binding),
    'story': (config.frames, single + (config.frames - 1) * (pair + then)),
  }
  return [longest[kind] for kind in KINDS if getattr(config, kind)]


def _choose(rng, options):
  return options[int(rng.integers(len(options)))]


def _pick(rng, table) -> tuple[int, int]:
  first, second = table[int(rng.integers(len(table)))]
  return int(first), int(second)
