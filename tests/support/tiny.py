"""The smallest model, documents and batches that still show everything.

Four patches to a picture of 4 x 4 pixels, which are its own latents; sixteen words; two
layers, two query heads on one key head. Batches go through the project's own layout and
packing, so that what holds here holds for training data.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from transfusion_jax.core import tree
from transfusion_jax.data import corpus, documents
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.rows import layout, packing
from transfusion_jax.data.text import tokenizers
from transfusion_jax.diffusion import path as path_lib
from transfusion_jax.generation import writer as writer_lib
from transfusion_jax.generation.samplers import denoise
from transfusion_jax.models import batch as batch_lib
from transfusion_jax.models import module, transformer, transfusion
from transfusion_jax.models.adapters import linear, unet
from transfusion_jax.models.codecs import codec, kl
from transfusion_jax.objectives import transfusion as objective_lib
from transfusion_jax.runs import config, requests
from transfusion_jax.training import optimizer

SIDE, PATCH, CHANNELS, PATCHES = 4, 2, 3, 4
LENGTH, SLOTS = 40, 4
PATH = path_lib.Path(steps=1000)
OBJECTIVE = objective_lib.Transfusion(image_weight=5.0, target='epsilon', path=PATH)

WORDS = tuple('a b c d e f g h i j k l m n o p'.split())
TOKENIZER = tokenizers.Words(WORDS, reserved=0, multiple=8)
SPECIAL = TOKENIZER.special
LAYOUT = layout.Layout(TOKENIZER, patches=PATCHES)
LIMITS = requests.Limits(
  size=(SIDE, SIDE),
  patches=PATCHES,
  layout=LAYOUT,
  context=LENGTH,
  levels=PATH.steps,
)
TABLE, USED = TOKENIZER.vocab_size, TOKENIZER.used_size

PAPERS_OPTIMIZER = optimizer.OptimizerConfig(**base.transfusion().optimizer)
OPTIMIZER = dataclasses.replace(
  PAPERS_OPTIMIZER,
  learning_rate=1e-2,
  final_learning_rate=1e-3,
  warmup_steps=2,
  ema_decay=0.99,
)


@functools.cache
def blueprint(adapter: str = 'linear', **changes) -> module.Blueprint:
  """A model; `changes` are fields of its `TransformerConfig`."""
  values = dict(
    depth=2,
    width=16,
    heads=2,
    kv_heads=1,
    head_dim=8,
    mlp=24,
    rope_base=100.0,
    norm_epsilon=1e-5,
    qk_norm=True,
    dtype='float32',
    remat='none',
    unroll=1,
    attention='xla',
  )
  config = transfusion.TransfusionConfig(
    vocabulary=0,
    transformer=transformer.TransformerConfig(**{**values, **changes}),
    adapter=transfusion.AdapterConfig(
      kind=adapter,
      linear=linear.LinearConfig(patch=PATCH, time_features=8, positions=0),
      unet=unet.UNetConfig((8, 8), blocks=1, groups=4, head_dim=8, time_features=8),
    ),
  )
  return module.blueprint(
    lambda rngs: transfusion.Transfusion(
      rngs, config, table=TABLE, used=USED, channels=CHANNELS
    )
  )


@functools.cache
def params(adapter: str = 'linear', **changes) -> module.Params:
  """Parameters that all count, those that would start at zero included.

  Drawn by NumPy, which has nothing to compile, and alike for models of one shape.
  """
  shapes = tree.flatten(blueprint(adapter, **changes).shapes)
  rng = np.random.default_rng(0)
  made = {}
  for path, leaf in shapes.items():
    deviation = 1.0 if path == ('embedding',) else 0.25
    centre = 1.0 if path[-1] == 'gain' else 0.0
    numbers = centre + deviation * rng.normal(size=leaf.shape)
    made[path] = jnp.asarray(numbers.astype(np.float32))
  return tree.nest(made)


@functools.cache
def model(adapter: str = 'linear', **changes) -> transfusion.Transfusion:
  """The model holding `params`."""
  return blueprint(adapter, **changes).definition.bind(params(adapter, **changes))


@jax.jit
def forward(
  model: transfusion.Transfusion,
  batch: batch_lib.Batch,
  noised: jax.Array,
  t: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Logits and images of a full forward pass, compiled once for every shape."""
  found = model(batch, noised, t)
  return model.logits(found.hidden), found.images


def autoencoder_config(**changes) -> kl.AutoencoderConfig:
  """The layout of a small autoencoder of windows."""
  values = {**base.SMALL_AUTOENCODER, 'channels': 8, 'groups': 4, 'patch': 2}
  return kl.AutoencoderConfig(**{**values, 'latent_channels': 3, **changes})


def scenes(**changes) -> emoji_scenes.EmojiScenesConfig:
  """The scenes of `configs/base.py`, as many of every kind; `changes` are fields."""
  kinds = dict.fromkeys(('single', 'count', 'pair', 'binding', 'story'), 1.0)
  made = config.build(emoji_scenes.EmojiScenesConfig, base.transfusion().data.scenes)
  return dataclasses.replace(made, **{**kinds, **changes})


def source(kind: str, path: str = '', **changes) -> corpus.SourceConfig:
  """A source as `configs/base.py` makes one; `changes` are fields of it or its form."""
  return config.build(corpus.SourceConfig, base.source(kind, path, **changes))


def picture(seed: int) -> np.ndarray:
  """A picture of random pixels."""
  return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def text(words: str, learn: bool = True) -> documents.Text:
  return documents.Text(words, learn)


def image(seed: int, learn: bool = True, noise_cap: float = 1.0) -> documents.Image:
  return documents.Image(picture(seed), learn, noise_cap)


def document(*segments: documents.Text | documents.Image) -> layout.Sequence:
  """One laid-out document."""
  return LAYOUT.document(segments)


def varied() -> list[layout.Sequence]:
  """One document of every kind."""
  return [
    document(text('a b c d e')),
    document(text('f g h'), image(1)),
    document(image(2, noise_cap=0.5), text('i j k l')),
    document(text('m n'), image(3), text('o p a'), image(4), text('b')),
    document(image(5)),
    document(image(6, learn=False, noise_cap=0.0), text('c d'), image(7)),
  ]


def arrays(
  bins: Sequence[Sequence[layout.Sequence]], *, length: int = LENGTH, slots: int = SLOTS
) -> dict[str, np.ndarray]:
  """Rows of documents as they leave the data pipeline."""
  shape = (SIDE, SIDE, CHANNELS)
  return packing.stack(
    bins, packing.Rows(len(bins), length, slots, shape, np.uint8, SPECIAL.pad)
  )


def batch(
  bins: Sequence[Sequence[layout.Sequence]], *, length: int = LENGTH, slots: int = SLOTS
) -> batch_lib.Batch:
  """Rows of documents as they reach the model; pixels serve as latents."""
  rows = arrays(bins, length=length, slots=slots)
  images = codec.to_unit(jnp.asarray(rows.pop('images')))
  return batch_lib.Batch(images=images, **{k: jnp.asarray(v) for k, v in rows.items()})


def mixed_batch(rows: int = 8, length: int = LENGTH) -> batch_lib.Batch:
  """Rows that differ in their counts of documents, tokens and pictures."""
  a, b, c, d, e, f = varied()
  bins = [[a, b, c], [d], [e, f, a], [c, c], [a], [f, b], [b, e, e, a], [a, a, a]]
  return batch(bins[:rows], length=length)


def alone(sequences: Sequence[layout.Sequence]) -> batch_lib.Batch:
  """One document to a row; as many rows as `mixed_batch`: nothing recompiles."""
  return batch([[one] for one in sequences] + [[]] * (8 - len(sequences)))


def levels(batch: batch_lib.Batch, seed: int = 0) -> jax.Array:
  """A noise level for every image slot, above zero."""
  shape = batch.noise_cap.shape
  return jax.random.uniform(jax.random.key(seed), shape, minval=0.1, maxval=1.0)


def replaced(struct, **changes):
  """A struct with some fields changed."""
  return dataclasses.replace(struct, **changes)


def rows_of(struct, index):
  """Some rows of a batch, or of anything with rows in front."""
  return jax.tree.map(lambda leaf: leaf[index], struct)


class Pixels(kl.Autoencoder):
  """An autoencoder that leaves pictures as they are."""

  def __init__(self):
    pass

  def encode(self, x: jax.Array) -> kl.Posterior:
    return kl.Posterior(x, jnp.zeros_like(x))

  def decode(self, z: jax.Array) -> jax.Array:
    return z


@functools.cache
def writer() -> writer_lib.Writer:
  """The tiny model with all that turns it into pictures and sentences."""
  return writer_lib.Writer(
    model=model(),
    codec=codec.Codec(Pixels(), jnp.zeros(CHANNELS), jnp.ones(CHANNELS)),
    tokenizer=TOKENIZER,
    layout=LAYOUT,
    path=PATH,
    target='epsilon',
    latents=(SIDE, SIDE, CHANNELS),
    context=LENGTH,
  )


def prompt(*segments: documents.Text | documents.Image, open_image: bool = False):
  """The beginning of a document."""
  return LAYOUT.prompt(segments, open_image=open_image)


def longer(prompt: layout.Sequence, words: Sequence[int]) -> layout.Sequence:
  """A prompt with word tokens behind it."""
  n, count = len(prompt), len(words)
  tail = np.arange(n, n + count, dtype=np.int32)
  behind = {
    'tokens': np.array(words, np.int32),
    'targets': np.full(count, SPECIAL.pad, np.int32),
    'weight': np.zeros(count, np.float32),
    'position': tail,
    'end': tail + 1,
    'slot': np.full(count, -1, np.int32),
  }
  return dataclasses.replace(
    prompt,
    **{k: np.concatenate([getattr(prompt, k), v]) for k, v in behind.items()},
  )


def image_sampling(**changes) -> denoise.ImageSampling:
  """Three steps of DDIM under guidance."""
  values = {**base.transfusion().sampling, 'solver': 'ddim', 'steps': 3}
  return denoise.ImageSampling(**{**values, 'guidance': 2.0, 'clip': 2.0, **changes})


def read_whole(
  prompts: Sequence[layout.Sequence], t: jax.Array | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """What a full forward pass says behind each prompt, and of each of its images.

  The images are clean, or at the noise levels `t` (and then are what they are).
  """
  rows = alone(prompts)
  clean = jnp.zeros(rows.noise_cap.shape)
  logits, images = forward(model(), rows, rows.images, clean if t is None else t)
  last = [len(one) - 1 for one in prompts]
  logits = np.asarray(logits)[np.arange(len(prompts)), last]
  return logits, np.asarray(images)[: len(prompts)]
