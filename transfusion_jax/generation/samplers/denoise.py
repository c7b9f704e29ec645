"""Drawing a picture: denoising at the end of every row, under guidance.

The prefix is in the cache and is not computed again: a denoising step runs the adapter
and the transformer over the picture's patches alone, the conditional and the
unconditional rows in one batch (Transfusion, section 3.4). Keys and values of the
patches overwrite those of the step before.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from transfusion_jax.core import tree
from transfusion_jax.diffusion import guidance, solvers, thresholds, times
from transfusion_jax.diffusion import path as path_lib
from transfusion_jax.generation import session as session_lib
from transfusion_jax.models import transfusion


@dataclasses.dataclass(frozen=True)
class ImageSampling:
  """Settings for sampling images.

  Attributes:
    solver: `ddpm`, the paper's, or another of `solvers`.
    steps: denoising steps; 250 in the paper.
    guidance: scale of classifier-free guidance; 1 is none.
    guidance_from: noise level from which on, downwards, there is guidance; 1 is always.
    guidance_to: noise level at which it ends, and with it half of the work; 0 is never
      (Kynkäänniemi et al., 2024).
    rescale: share of guided predictions that is brought back to the deviation of the
      conditional ones; 0 is none (`diffusion/guidance.py`).
    clip: bound of the predicted latents, in standard deviations; 0 for none.
    percentile: of a picture's latents that is brought to the bound instead of clipping
      to it, for example 99.5; 0 clips (`diffusion/thresholds.py`).
  """

  solver: solvers.Kind
  steps: int
  guidance: float
  guidance_from: float
  guidance_to: float
  rescale: float
  clip: float
  percentile: float

  def __post_init__(self):
    ranges = {
      'guidance_from': (0.0, 1.0),
      'guidance_to': (0.0, self.guidance_from),
      'rescale': (0.0, 1.0),
      'clip': (0.0, float('inf')),
      'percentile': (0.0, 100.0),
    }
    for name, (low, high) in ranges.items():
      value = getattr(self, name)
      if not low <= value <= high:
        raise ValueError(
          f'expected sampling.{name} from {low} to {high}, found {value}; change it'
        )

  @property
  def guided(self) -> bool:
    """True if there is any guidance."""
    return self.guidance != 1 and self.guidance_from > self.guidance_to

  @property
  def always(self) -> bool:
    """True if there is guidance at all levels."""
    return self.guided and (self.guidance_from, self.guidance_to) == (1.0, 0.0)


@tree.struct
class Anchor:
  """Given image, or part of one, that a drawing keeps to.

  Attributes:
    latents: of the whole picture.
    known: where they are to stay as they are.
  """

  latents: Float[Array, 'b h w c']
  known: Bool[Array, 'b h w']


@dataclasses.dataclass(frozen=True)
class Drawing:
  """All that is fixed when a picture is drawn.

  Attributes:
    shape: height, width and channels of the latents.
    path: of the model's training.
    target: what the model predicts.
    sampling: solver, steps, guidance.
    begin: noise level at which denoising begins; below 1 the picture of an anchor is
      noised that far and varied.
  """

  shape: tuple[int, int, int]
  path: path_lib.Path
  target: path_lib.Target
  sampling: ImageSampling
  begin: float = 1.0


def draw(
  model: transfusion.Transfusion,
  session: session_lib.Session,
  null: session_lib.Session,
  keys: Key[Array, ' b'],
  anchor: Anchor | None,
  drawing: Drawing,
) -> Float[Array, 'b h w c']:
  """Samples the latents of a picture at the end of every row.

  Args:
    model: the model.
    session: rows that end in BOI.
    null: as many rows that hold the null layout, `BOS BOI`, as in training.
    keys: one random key per row.
    anchor: what is given of the pictures, if anything.
    drawing: everything else.
  """
  held = _held(session, null, drawing)
  predict = functools.partial(_predict, model, anchor, drawing)
  return _solve(predict, keys, held, anchor, drawing)[0]


def trajectory(
  model: transfusion.Transfusion,
  session: session_lib.Session,
  null: session_lib.Session,
  keys: Key[Array, ' b'],
  drawing: Drawing,
  stages: int,
) -> Float[Array, 'b s h w c']:
  """Expected clean image at stages of its denoising.

  All solvers end with what they have predicted last.

  Args:
    model: the model.
    session: rows that end in BOI.
    null: as in `draw`.
    keys: one random key per row.
    drawing: everything else.
    stages: predictions that are kept, of steps evenly spread from first to last.
  """
  steps = drawing.sampling.steps
  chosen = np.round(np.linspace(0, steps - 1, stages)).astype(int)
  levels = _levels(drawing)[chosen]

  def predict(x, t, carried):
    held, seen = carried
    x0, held = _predict(model, None, drawing, x, t, held)
    now = jnp.asarray(levels)[None, :, None, None, None] == t
    return x0, (held, jnp.where(now, x0[:, None], seen))

  seen = jnp.zeros((keys.shape[0], stages, *drawing.shape), jnp.float32)
  held = (_held(session, null, drawing), seen)
  _, (_, seen) = _solve(predict, keys, held, None, drawing)
  return seen


def _held(session, null, drawing: Drawing) -> session_lib.Session:
  guided = drawing.sampling.guided
  return session_lib.join(session, null) if guided else session


def _levels(drawing: Drawing) -> np.ndarray:
  steps, path = drawing.sampling.steps, drawing.path
  return times.strided(steps, steps=path.steps, begin=drawing.begin)


def _solve(predict, keys, held, anchor: Anchor | None, drawing: Drawing):
  """From noise to pictures, and what `predict` held at last."""
  path = drawing.path
  split = jax.vmap(lambda key: jax.random.split(key))(keys)
  x = jax.vmap(lambda key: jax.random.normal(key, drawing.shape))(split[:, 0])
  if drawing.begin < 1:
    level = jnp.full(x.shape[:1], drawing.begin)
    x = path.corrupt(anchor.latents, x, level).x
  return solvers.solve(
    predict,
    x,
    split[:, 1],
    held,
    path=path,
    levels=_levels(drawing),
    kind=drawing.sampling.solver,
  )


def _predict(model, anchor: Anchor | None, drawing: Drawing, x, t, held):
  """The clean picture as far as it is known, within bounds."""
  sampling = drawing.sampling
  x0, held = _look(model, x, t, held, drawing)
  x0 = thresholds.bound(x0, limit=sampling.clip, percentile=sampling.percentile)
  if anchor is not None:
    x0 = jnp.where(anchor.known[..., None], anchor.latents, x0)
  return x0, held


def _look(model, x, t, held, drawing: Drawing):
  """The clean data that the model predicts, with guidance where it applies."""
  sampling = drawing.sampling

  def plain(held):
    some = held
    if sampling.guided:
      some = jax.tree.map(lambda leaf: leaf[: x.shape[0]], held)
    out, some = session_lib.denoise(model, some, x, _each(t, x))
    if sampling.guided:
      some = jax.tree.map(
        lambda all_, part: all_.at[: x.shape[0]].set(part), held, some
      )
    return out, some

  def guided(held):
    both = jnp.concatenate([x, x])
    out, held = session_lib.denoise(model, held, both, _each(t, both))
    out = guidance.guide(
      *jnp.split(out, 2), sampling.guidance, rescale=sampling.rescale
    )
    return out, held

  if sampling.always:
    out, held = guided(held)
  elif sampling.guided:
    inside = (t <= sampling.guidance_from) & (t > sampling.guidance_to)
    out, held = jax.lax.cond(inside, guided, plain, held)
  else:
    out, held = plain(held)
  path = drawing.path
  return path.convert(out, x, _each(t, x), drawing.target, 'x0'), held


def _each(t, x):
  return jnp.full(x.shape[:1], t)
