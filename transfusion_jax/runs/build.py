"""The only place where names in a config meet classes: from a run to its parts."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from transfusion_jax.core import axes, compiler, log, sharding
from transfusion_jax.data import pipeline
from transfusion_jax.data.rows import layout
from transfusion_jax.data.text import tokenizers
from transfusion_jax.diffusion import path as path_lib
from transfusion_jax.evaluation import evaluator
from transfusion_jax.generation import writer as writer_lib
from transfusion_jax.models import batch as batch_lib
from transfusion_jax.models import module, transfusion
from transfusion_jax.models.adapters import adapter as adapter_lib
from transfusion_jax.models.codecs import autoencoder_training, codec, kl, perceptual
from transfusion_jax.objectives import autoencoding
from transfusion_jax.objectives import transfusion as transfusion_objective
from transfusion_jax.runs import config
from transfusion_jax.runs import evaluators as evaluators_lib
from transfusion_jax.training import checkpoint_reader, optimizer, step
from transfusion_jax.training import state as state_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
  """Model, objective and optimizer of a run, not yet on any device.

  Attributes:
    blueprint: of the model.
    objective: the loss.
    tx: the optimizer.
    schedule: learning rate by step.
    frozen: of parameters that the model needs and that are not trained.
  """

  blueprint: module.Blueprint
  objective: Any
  tx: optax.GradientTransformation
  schedule: optax.Schedule
  frozen: module.Blueprint


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer:
  """Parts on a mesh.

  Attributes:
    parts: model, objective, optimizer.
    mesh: the devices.
    abstract: shapes and shardings of the state.
    init: makes the state from a key and parameters that take the place of made ones:
      those of the same shape, whose memory it takes over, and the others.
    step: the jitted step, which takes over its state's memory.
    frozen: shapes and shardings of the step's further arguments.
  """

  parts: Parts
  mesh: Mesh
  abstract: state_lib.TrainState
  init: Any
  step: step.Step
  frozen: tuple[module.Params, ...]


def parts(run: config.Run) -> Parts:
  """Model, objective and optimizer of a run."""
  if isinstance(run, config.AutoencoderRun):
    whole = _judged_blueprint(run)
    objective: Any = autoencoding.Autoencoding(run.objective)
  else:
    whole = _transfusion_blueprint(run)
    objective = transfusion_objective.Transfusion(
      image_weight=run.objective.image_weight,
      target=run.objective.target,
      path=path(run.objective.path),
    )
  blueprint, frozen = module.divide(whole, autoencoder_training.FROZEN)
  tx = optimizer.make(run.optimizer, blueprint.axes, run.train.steps)
  schedule = optimizer.schedule(run.optimizer, run.train.steps)
  return Parts(
    blueprint=blueprint, objective=objective, tx=tx, schedule=schedule, frozen=frozen
  )


def autoencoder_blueprint(run: config.AutoencoderRun) -> module.Blueprint:
  """The autoencoder without its judges."""
  return module.blueprint(lambda rngs: kl.Autoencoder(rngs, run.model))


def _judged_blueprint(run: config.AutoencoderRun) -> module.Blueprint:
  opposed = run.objective.adversarial
  return module.blueprint(
    lambda rngs: autoencoder_training.Judged(
      rngs,
      run.model,
      opponent=opposed.discriminator if opposed.weight > 0 else None,
      lpips=run.objective.lpips_weight > 0,
    )
  )


def frozen_params(run: config.Run) -> module.Params:
  """Parameters that are not trained, from their files.

  Raises:
    ValueError: there is no such file, or it holds something else.
  """
  if isinstance(run, config.AutoencoderRun) and run.objective.lpips_weight > 0:
    file = perceptual.find(run.objective.lpips_file)
    shapes = _judged_blueprint(run).shapes['perceptual']
    return {'perceptual': perceptual.read(file, shapes)}
  return {}


def placed_frozen(run: config.Run, trainer: Trainer) -> tuple[module.Params, ...]:
  """The further arguments of a trainer's step, on its devices."""

  def place(leaf, values):
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, values.__getitem__)

  return tuple(jax.tree.map(place, each, frozen_params(run)) for each in trainer.frozen)


def _transfusion_blueprint(run: config.TransfusionRun) -> module.Blueprint:
  table, used = vocabulary(run)
  channels = run.autoencoder.run.model.latent_channels
  return module.blueprint(
    lambda rngs: transfusion.Transfusion(
      rngs, run.model, table=table, used=used, channels=channels
    )
  )


def path(section: path_lib.PathConfig) -> path_lib.Path:
  """The path from data to noise."""
  paths = {'cosine': path_lib.Path}
  return paths[section.kind](steps=section.steps)


def vocabulary(run: config.TransfusionRun) -> tuple[int, int]:
  """Rows of the token table, and how many of them stand for tokens.

  A size in the config is taken as it is: a step can be compiled where the tokenizer is
  not installed. `check_vocabulary` is for where it is used.
  """
  if run.model.vocabulary:
    return run.model.vocabulary, run.model.vocabulary
  tokenizer = pipeline.tokenizer(run.data)
  return tokenizer.vocab_size, tokenizer.used_size


def check_vocabulary(run: config.TransfusionRun) -> None:
  """Raises ValueError if the token table is smaller than the tokenizer's vocabulary."""
  table, used = vocabulary(run)[0], pipeline.tokenizer(run.data).used_size
  if table < used:
    raise ValueError(
      f'expected model.vocabulary of at least {used}, the size of the tokenizer, found '
      f'{table}; raise it, or set 0 to follow the tokenizer'
    )


def trainer(run: config.Run, mesh: Mesh) -> Trainer:
  """The jitted, sharded step of a run and the making of its state."""
  return trainer_of(parts(run), run, mesh)


def trainer_of(made: Parts, run: config.Run, mesh: Mesh) -> Trainer:
  """The same of any parts, trained as a run says."""
  init, average = made.blueprint.init, run.optimizer.ema_decay > 0

  def initial(key, same, other):
    return state_lib.initial(init, made.tx, key, average=average, given=same | other)

  abstract = jax.eval_shape(initial, jax.random.key(0), {}, {})
  shardings = state_lib.shardings(abstract, made.blueprint.axes, made.tx, mesh)
  first = jax.jit(initial, out_shardings=shardings, donate_argnums=1)
  one_step = step.make_step(
    made.blueprint.definition.bind,
    made.objective,
    made.tx,
    microbatches=run.train.microbatches,
    ema_decay=run.optimizer.ema_decay,
    spike=run.train.guard.spike,
  )
  rows = jax.sharding.NamedSharding(mesh, axes.BATCH_SPEC)
  more = (made.frozen,) if made.frozen.shapes else ()
  given = tuple(axes.shardings(mesh, each.axes, each.shapes) for each in more)
  jitted = jax.jit(
    sharding.on(mesh, one_step),
    in_shardings=(shardings, rows, *given),
    out_shardings=(shardings, axes.replicated(mesh)),
    donate_argnums=(0,),
    compiler_options=compiler.training(mesh.devices.flat[0].platform),
  )
  return Trainer(
    parts=made,
    mesh=mesh,
    abstract=checkpoint_reader.abstract(abstract, shardings),
    init=first,
    step=jitted,
    frozen=tuple(
      checkpoint_reader.abstract(each.shapes, where)
      for each, where in zip(more, given, strict=True)
    ),
  )


def trains_autoencoder(run: config.TransfusionRun) -> bool:
  """True if a run trains its autoencoder first: it needs one, and has none."""
  return run.data.image_slots > 0 and not run.autoencoder.checkpoint


def latents(run: config.TransfusionRun) -> tuple[int, int, int]:
  """Height, width and channels of a picture's latents.

  Raises:
    ValueError: pictures do not divide into latents, or latents into patches.
  """
  model = run.autoencoder.run.model
  height, width, _ = pipeline.pixels(run.data)
  h, w = adapter_lib.grid(height, width, model.factor)
  adapter_lib.grid(h, w, adapter_patch(run.model))
  return h, w, model.latent_channels


def adapter_patch(section: transfusion.TransfusionConfig) -> int:
  """Latent pixels along a patch's side."""
  adapter = section.adapter
  return adapter.linear.patch if adapter.kind == 'linear' else adapter.unet.patch


def patch_count(run: config.TransfusionRun) -> int:
  """Positions that one picture takes in a row."""
  h, w, _ = latents(run)
  patch = adapter_patch(run.model)
  return (h // patch) * (w // patch)


def text_layout(run: config.TransfusionRun) -> layout.Layout:
  """From documents to sequences."""
  return layout.Layout(pipeline.tokenizer(run.data), patches=patch_count(run))


def batch_shapes(run: config.Run, rows: int, placed: Any = None) -> Any:
  """The batch that the step takes, as `jax.ShapeDtypeStruct`s.

  Args:
    run: what would be trained.
    rows: of the batch, on all hosts.
    placed: sharding of every array.
  """
  if isinstance(run, config.AutoencoderRun):
    shape = pipeline.pixels(run.data)
    return batch_lib.picture_shapes(rows=rows, shape=shape, sharding=placed)
  return batch_lib.shapes(
    rows=rows,
    length=run.data.row_length,
    slots=run.data.image_slots,
    latents=latents(run),
    sharding=placed,
  )


def writer(
  run: config.TransfusionRun, params: Any, frozen: codec.Codec | None
) -> writer_lib.Writer:
  """All that turns trained parameters into pictures and sentences."""
  tokenizer: tokenizers.Tokenizer = pipeline.tokenizer(run.data)
  return writer_lib.Writer(
    model=_transfusion_blueprint(run).definition.bind(params),
    codec=frozen,
    tokenizer=tokenizer,
    layout=text_layout(run),
    path=path(run.objective.path),
    target=run.objective.target,
    latents=latents(run),
    context=run.data.row_length,
  )


def evaluators(
  run: config.TransfusionRun, sections: Mapping[str, config.Evaluator]
) -> dict[str, evaluator.Evaluator]:
  """Evaluators by name, their files opened and tried; no device is asked for.

  Those that measure on what the run's own data holds out are left out, with a line in
  the log, where nothing is held out that suits them.

  Args:
    run: of the model that is evaluated.
    sections: which.

  Raises:
    ValueError: one does not suit the run, its data does not suit it, or a file is
      missing.
  """
  made, left_out = {}, {}
  plan = text_layout(run)
  for name, section in sections.items():
    try:
      found = evaluators_lib.make(run, section, plan, latents(run))
      found.check()
      made[name] = found
    except evaluator.Unsuited as error:
      left_out.setdefault(str(error), []).append(name)
    except (ValueError, OSError) as error:
      raise ValueError(f'evaluation.evaluators.{name}: {error}') from error
  for reason, names in left_out.items():
    if reason:
      log.once(f'evaluation without {" and ".join(names)}: {reason}')
  return made
