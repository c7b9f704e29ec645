"""Writing a picture: denoising at the end of every row, under guidance.

The prefix is in the cache and is not computed again: a denoising step runs the adapter
and the transformer over the picture's patches alone, the conditional and the
unconditional rows in one batch (Transfusion, section 3.4).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from transfusion_jax.diffusion import guidance, solvers, times
from transfusion_jax.diffusion import path as path_lib
from transfusion_jax.generation import session as session_lib
from transfusion_jax.models import transfusion


@dataclasses.dataclass(frozen=True)
class ImageSampling:
  """How pictures are sampled.

  Attributes:
    solver: `ddpm`, the paper's, or `ddim`.
    steps: denoising steps; 250 in the paper.
    guidance: scale of classifier-free guidance; 1 is none.
    clip: bound of the predicted latents, in standard deviations; 0 for none.
  """

  solver: solvers.Kind
  steps: int
  guidance: float
  clip: float


@functools.partial(jax.jit, static_argnames=('shape', 'path', 'target', 'sampling'))
def write_image(
  model: transfusion.Transfusion,
  session: session_lib.Session,
  null: session_lib.Session,
  keys: Key[Array, ' b'],
  active: Bool[Array, ' b'],
  *,
  shape: tuple[int, int, int],
  path: path_lib.Path,
  target: path_lib.Target,
  sampling: ImageSampling,
) -> tuple[session_lib.Session, Float[Array, 'b h w c']]:
  """Samples a picture at the end of every row and enters it, clean, where active.

  Args:
    model: the model.
    session: rows that end in BOI.
    null: as many rows that hold the null layout, `BOS BOI`, as in training.
    keys: one random key per row.
    active: rows that get a picture.
    shape: height, width and channels of the latents.
    path: of the model's training.
    target: what the model predicts.
    sampling: solver, steps, guidance.
  """
  both = session_lib.join(session, null) if sampling.guidance != 1 else session

  def predict(x, t):
    x = jnp.concatenate([x, x]) if sampling.guidance != 1 else x
    level = jnp.full(x.shape[:1], t)
    out, _ = session_lib.denoise(model, both, x, level)
    if sampling.guidance != 1:
      conditional, unconditional = jnp.split(out, 2)
      out = guidance.guide(conditional, unconditional, sampling.guidance)
      x = x[: out.shape[0]]
    return path.convert(out, x, level[: x.shape[0]], target, 'x0')

  noise = jax.vmap(
    lambda key: jax.random.normal(jax.random.fold_in(key, sampling.steps), shape)
  )(keys)
  images = solvers.solve(
    predict,
    noise,
    keys,
    path=path,
    levels=times.strided(sampling.steps, steps=path.steps),
    kind=sampling.solver,
    clip=sampling.clip,
  )
  return session_lib.read_image(model, session, images, active), images
