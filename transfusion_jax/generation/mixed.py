"""One compiled sampler for documents of text and pictures.

A batch of rows, each in a mode of its own: it writes text, it draws a picture, or it is
done. As long as any row writes, all of them take a token at a time; then the rows that
have opened a picture draw it together, a few at a time, while the others wait; then
those that go on have their picture entered, clean, and write again. Denoising costs
hundreds of times what a token does, so that pictures that wait for each other are
cheaper than tokens that wait for pictures.

What a row makes depends on its prompt and its key alone: every draw has a key of its
own, which counts the row's tokens and pictures and not the rounds of the batch.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from transfusion_jax.core import sharding, tree
from transfusion_jax.generation import logits as logits_lib
from transfusion_jax.generation import session as session_lib
from transfusion_jax.generation.samplers import denoise
from transfusion_jax.models import transfusion

TEXT, IMAGE, DONE = 0, 1, 2
"""Modes of a row."""

_BUSY = 1024
"""Positions of a device from which on a step costs more with every row: about where a
TPU or a CPU is limited by arithmetic and no more by reading the weights."""


@tree.struct
class Rows:
  """Documents written so far, and the state of their rows.

  Attributes:
    session: what has been read, prompts and all.
    mode: of every row.
    tokens: text ids, BOI and EOS among them; -1 behind the end.
    count: tokens of every row.
    latents: pictures.
    before: tokens that stand before each picture.
    drawn: pictures of every row.
  """

  session: session_lib.Session
  mode: Int[Array, ' b']
  tokens: Int[Array, 'b t']
  count: Int[Array, ' b']
  latents: Float[Array, 'b p h w c']
  before: Int[Array, 'b p']
  drawn: Int[Array, ' b']


@tree.struct
class SamplingParams:
  """Parameters of all requests.

  Attributes:
    text_keys: one key per row, for its tokens.
    image_keys: one key per row, for its pictures.
    choices: how text is drawn.
    limit: most tokens of every row.
    pictures: most pictures of every row; with the next BOI the row ends.
    allowed: tokens that may be chosen at all.
  """

  text_keys: Key[Array, ' b']
  image_keys: Key[Array, ' b']
  choices: logits_lib.Choices
  limit: Int[Array, ' b']
  pictures: Int[Array, ' b']
  allowed: Bool[Array, ' v']


@dataclasses.dataclass(frozen=True)
class SamplingPlan:
  """All that is compiled for.

  Attributes:
    drawing: how pictures are drawn.
    writes: whether any text is written.
    draws: whether any picture is drawn.
    filtered: whether unlikely tokens are left out.
    context: positions of a row, prompt and all.
    eos: token that ends a document.
    boi: token that opens a picture.
    eoi: token that closes one.
    null: the prompt of guidance.
  """

  drawing: denoise.Drawing
  writes: bool
  draws: bool
  filtered: bool
  context: int
  eos: int
  boi: int
  eoi: int
  null: tuple[int, ...]


def write(
  model: transfusion.Transfusion,
  rows: Rows,
  params: SamplingParams,
  anchor: denoise.Anchor | None,
  turns: Int[Array, ''],
  stride: Int[Array, ''],
  plan: SamplingPlan,
) -> Rows:
  """Continues every row until it is done.

  Args:
    model: the model.
    rows: prompts that were read, in the mode in which they begin.
    params: what is asked for.
    anchor: what is given of the pictures, if anything.
    turns: most changes from text to pictures; the rest is done by calling again.
    stride: most tokens that a row writes before each of them.
    plan: all that is compiled for.
  """
  model = model.unstacked()

  def going(carry):
    turn, rows = carry
    return (turn < turns) & jnp.any(rows.mode != DONE)

  def body(carry):
    turn, rows = carry
    if plan.writes:
      rows = _write_text(model, rows, params, stride, plan)
    if plan.draws:
      rows = jax.lax.cond(
        jnp.any(rows.mode == IMAGE),
        lambda rows: _draw(model, rows, params, anchor, plan),
        lambda rows: rows,
        rows,
      )
    return turn + 1, rows

  return jax.lax.while_loop(going, body, (jnp.zeros((), jnp.int32), rows))[1]


def trajectory(
  model: transfusion.Transfusion,
  rows: Rows,
  params: SamplingParams,
  stages: int,
  plan: SamplingPlan,
) -> Float[Array, 'b s h w c']:
  """Expected images at stages of their denoising (`denoise.trajectory`).

  Args:
    model: the model.
    rows: prompts that were read; each has just opened a picture.
    params: what is asked for.
    stages: predictions that are kept.
    plan: all that is compiled for.
  """
  model = model.unstacked()
  null = _null(model, rows.mode.shape[0], rows.session.room, plan)
  keys = _picture_keys(rows, params)
  return denoise.trajectory(model, rows.session, null, keys, plan.drawing, stages)


def _write_text(
  model, rows: Rows, params: SamplingParams, stride, plan: SamplingPlan
) -> Rows:
  def going(carry):
    index, rows = carry
    return (index < stride) & jnp.any(rows.mode == TEXT)

  def body(carry):
    index, rows = carry
    return index + 1, _write_token(model, rows, params, plan)

  return jax.lax.while_loop(going, body, (jnp.zeros((), jnp.int32), rows))[1]


def _write_token(model, rows: Rows, params: SamplingParams, plan: SamplingPlan) -> Rows:
  """Chooses the next token of every row that writes, and reads it."""
  active, length = rows.mode == TEXT, rows.session.length
  keys = jax.vmap(jax.random.fold_in)(params.text_keys, rows.count)
  logits = jnp.where(params.allowed[None], rows.session.logits, -jnp.inf)
  token = logits_lib.choose(keys, logits, params.choices, filtered=plan.filtered)
  each = jnp.arange(active.shape[0])
  chosen = jnp.where(active, token, -1)
  tokens = rows.tokens.at[each, rows.count].set(chosen, mode='drop')
  count = rows.count + active.astype(jnp.int32)
  picture = length + _patches(model, plan) + 2 <= plan.context
  opens = active & (token == plan.boi) & (rows.drawn < params.pictures) & picture
  ends = (token == plan.eos) | ((token == plan.boi) & ~opens)
  full = ~opens & ((count >= params.limit) | (length + 1 >= plan.context))
  reads = active & ~ends & ~full
  mode = jnp.where(active & ~reads, DONE, jnp.where(opens, IMAGE, rows.mode))
  session = session_lib.read_text(
    model, rows.session, token[:, None], reads.astype(jnp.int32)
  )
  return dataclasses.replace(
    rows, session=session, mode=mode, tokens=tokens, count=count
  )


def _draw(
  model, rows: Rows, params: SamplingParams, anchor, plan: SamplingPlan
) -> Rows:
  """Draws a picture in every row that has opened one, and goes on behind it."""
  active, keys = rows.mode == IMAGE, _picture_keys(rows, params)
  latents = _draw_some(model, rows.session, keys, active, anchor, plan)
  slots = rows.latents.shape[1]
  each, slot = jnp.arange(active.shape[0]), jnp.where(active, rows.drawn, slots)
  behind = rows.session.length + _patches(model, plan) + 1
  goes_on = active & (rows.count < params.limit) & (behind < plan.context)

  def enter(session):
    session = session_lib.read_image(model, session, latents, goes_on)
    eoi = jnp.full((active.shape[0], 1), plan.eoi, jnp.int32)
    return session_lib.read_text(model, session, eoi, goes_on.astype(jnp.int32))

  session = rows.session
  if plan.writes:
    session = jax.lax.cond(jnp.any(goes_on), enter, lambda same: same, session)
  return dataclasses.replace(
    rows,
    session=session,
    mode=jnp.where(goes_on, TEXT, jnp.where(active, DONE, rows.mode)),
    latents=rows.latents.at[each, slot].set(latents, mode='drop'),
    before=rows.before.at[each, slot].set(rows.count, mode='drop'),
    drawn=rows.drawn + active.astype(jnp.int32),
  )


def _picture_keys(rows: Rows, params: SamplingParams) -> Key[Array, ' b']:
  return jax.vmap(jax.random.fold_in)(params.image_keys, rows.drawn)


def _draw_some(model, session, keys, active, anchor, plan: SamplingPlan):
  """Pictures of the rows that are active, so many at a time as keep a device busy."""
  b, drawing = active.shape[0], plan.drawing
  size = min(b, group(_patches(model, plan), guided=drawing.sampling.guided))
  null = _null(model, size, session.room, plan)
  if size == b:
    return denoise.draw(model, session, null, keys, anchor, drawing)
  order = jnp.argsort(~active, stable=True)

  def body(index, made):
    rows = jax.lax.dynamic_slice_in_dim(order, index * size, size)
    part = session_lib.take(session, rows)
    given = jax.tree.map(lambda leaf: leaf[rows], anchor)
    return made.at[rows].set(
      denoise.draw(model, part, null, keys[rows], given, drawing)
    )

  made = jnp.zeros((b, *drawing.shape), jnp.float32)
  return jax.lax.fori_loop(0, -(-jnp.sum(active) // size), body, made)


def group(patches: int, *, guided: bool) -> int:
  """Rows that draw together: as few as keep every device busy."""
  mesh = sharding.current()
  devices = 1 if mesh is None else sharding.ways(mesh, sharding.axes.ROWS)
  return devices * max(1, _BUSY // (patches * (2 if guided else 1)))


def _null(model, rows: int, length: int, plan: SamplingPlan) -> session_lib.Session:
  tokens = jnp.broadcast_to(
    jnp.asarray(plan.null, jnp.int32)[None], (rows, len(plan.null))
  )
  prompts = session_lib.Prompts(
    tokens=tokens,
    slot=jnp.full_like(tokens, -1),
    end=jnp.broadcast_to(
      jnp.arange(1, len(plan.null) + 1, dtype=jnp.int32)[None], tokens.shape
    ),
    images=jnp.zeros((rows, 0, 1, 1, 1), jnp.float32),
    count=jnp.full((rows,), len(plan.null), jnp.int32),
  )
  return session_lib.read(model, prompts, length=length)


def _patches(model, plan: SamplingPlan) -> int:
  return model.patches(plan.drawing.shape[:2])
