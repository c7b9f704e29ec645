"""Run configurations: dataclasses that say everything, and their ConfigDict form.

A run is described by nested frozen dataclasses, each in the file that reads it. A
config file under `configs/` fills in an `ml_collections.ConfigDict` of the same shape,
so that every field can be changed on the command line and a misspelling is an error at
once. At the start of a run the ConfigDict is turned into the dataclasses, strictly, and
nobody sees it again.
"""

import dataclasses
import math
import types
import typing
from typing import Any, Literal

import ml_collections
from ml_collections import config_dict

from transfusion_jax.core import paths, renamed
from transfusion_jax.data import pipeline
from transfusion_jax.evaluation import (
  caption_metrics,
  drawings,
  geneval,
  harness,
  image_loss,
  perplexity,
  samples,
)
from transfusion_jax.evaluation.emoji import scenes, tasks
from transfusion_jax.generation.samplers import denoise
from transfusion_jax.models import transfusion
from transfusion_jax.models.codecs import kl
from transfusion_jax.objectives import autoencoding
from transfusion_jax.objectives import transfusion as transfusion_objective
from transfusion_jax.training import loop, mesh, optimizer, warm_start


@dataclasses.dataclass(frozen=True)
class AutoencoderRun:
  """Training an autoencoder.

  Attributes:
    kind: tells this kind of run from the others.
    seed: of parameters, noise and the order of the data.
    data: pictures.
    model: the autoencoder.
    objective: its loss.
    optimizer: AdamW.
    train: how long.
    start: where parameters come from at a fresh start.
    mesh: devices.
    measured: pictures over which the latents' mean and deviation, and the reported
      PSNR, are measured.
  """

  kind: Literal['autoencoder']
  seed: int
  data: pipeline.DataConfig
  model: kl.AutoencoderConfig
  objective: autoencoding.AutoencodingConfig
  optimizer: optimizer.OptimizerConfig
  train: loop.TrainConfig
  start: warm_start.StartConfig
  mesh: mesh.MeshConfig
  measured: int


@dataclasses.dataclass(frozen=True)
class AutoencoderStage:
  """Origin of the frozen autoencoder.

  Attributes:
    checkpoint: work directory of a trained autoencoder; empty trains one first, in the
      `autoencoder` folder of the run's own work directory.
    deviation: standard deviation that every latent channel is scaled to. 1 is usual;
      less makes the same schedule noisier, so that more of the loss is about what
      stands where and less about fine detail.
    sample: whether latents are drawn from the posterior instead of being its mean.
    run: how it is (or was) trained.
  """

  checkpoint: str
  deviation: float
  sample: bool
  run: AutoencoderRun

  def __post_init__(self):
    if self.checkpoint:
      place = paths.local(self.checkpoint, 'autoencoder.checkpoint')
      object.__setattr__(self, 'checkpoint', str(place))


Evaluator = (
  samples.SamplesConfig
  | image_loss.HeldoutImageLossConfig
  | perplexity.HeldoutPerplexityConfig
  | scenes.ScenesConfig
  | tasks.SceneTasksConfig
  | perplexity.PerplexityConfig
  | image_loss.ImageLossConfig
  | drawings.DrawingsConfig
  | caption_metrics.CaptionsConfig
  | geneval.GenevalConfig
  | harness.HarnessConfig
)
"""Sections of evaluators; the `kind` of each tells it from the others."""


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """Evaluators of a model, and when they are at work.

  Attributes:
    every: steps between evaluations during training; 0: only at its end, -1: never.
    rows: pictures or texts that go through the model at a time.
    evaluators: by name, which is put before the names of their scores.
  """

  every: int
  rows: int
  evaluators: dict[str, Evaluator]

  @property
  def in_training(self) -> dict[str, Evaluator]:
    """The evaluators that are at work while a run trains, or at its end."""
    return self.evaluators if self.every >= 0 else {}

  def __post_init__(self):
    if self.every < -1 or self.rows < 1:
      raise ValueError(
        f'expected every >= -1 and rows >= 1, found {self.every} and {self.rows}; '
        'use every=0 to evaluate at the end alone, and -1 never to'
      )


@dataclasses.dataclass(frozen=True)
class TransfusionRun:
  """Mixed pretraining.

  Attributes:
    kind: tells this kind of run from the others.
    seed: of parameters, noise and the order of the data.
    data: documents.
    autoencoder: between pixels and latents.
    model: the transformer.
    objective: the loss.
    optimizer: AdamW.
    train: how long.
    start: where parameters come from at a fresh start.
    mesh: devices.
    sampling: how pictures are sampled, in evaluation and by `sample`.
    evaluation: what is measured, and when.
  """

  kind: Literal['transfusion']
  seed: int
  data: pipeline.DataConfig
  autoencoder: AutoencoderStage
  model: transfusion.TransfusionConfig
  objective: transfusion_objective.ObjectiveConfig
  optimizer: optimizer.OptimizerConfig
  train: loop.TrainConfig
  start: warm_start.StartConfig
  mesh: mesh.MeshConfig
  sampling: denoise.ImageSampling
  evaluation: EvaluationConfig


Run = AutoencoderRun | TransfusionRun


def empty(kind: type) -> ml_collections.ConfigDict:
  """A ConfigDict with a typed placeholder for every field of a dataclass."""
  config = ml_collections.ConfigDict()
  for name, hint in typing.get_type_hints(kind).items():
    if dataclasses.is_dataclass(hint):
      config[name] = empty(hint)
    elif typing.get_origin(hint) is dict:
      config[name] = ml_collections.ConfigDict()
    else:
      config[name] = config_dict.placeholder(_plain(hint))
  return config.lock()


def parse(config: ml_collections.ConfigDict) -> Run:
  """The dataclasses that a ConfigDict describes.

  Raises:
    ValueError: one line per field that is missing, ill-typed or not among its choices.
  """
  return build(Run, config.copy_and_resolve_references())


def build(kind: Any, config: ml_collections.ConfigDict) -> Any:
  """The dataclass, or that one of several, that a section describes.

  Raises:
    ValueError: as `parse`.
  """
  problems: list[str] = []
  made = _section(config, kind, '', problems)
  if problems:
    raise ValueError('; '.join(problems))
  return made


def kinds(hint: Any) -> dict[str, type]:
  """Sections by their `kind`, of one that may be any of several."""
  members = typing.get_args(hint)
  return {
    typing.get_args(typing.get_type_hints(each)['kind'])[0]: each for each in members
  }


def to_dict(run: Any) -> Any:
  """Nested dicts of plain values, as they are written to `config.json`."""
  if isinstance(run, dict):
    return {name: to_dict(value) for name, value in run.items()}
  if not dataclasses.is_dataclass(run):
    return list(run) if isinstance(run, tuple) else run
  return {
    field.name: to_dict(getattr(run, field.name)) for field in dataclasses.fields(run)
  }


def from_dict(values: dict[str, Any]) -> Run:
  """The inverse of `to_dict`, for example from a work directory's `config.json`."""
  return parse(page(values))


def page(values: dict[str, Any]) -> ml_collections.ConfigDict:
  """ConfigDict of the values that `to_dict` returns."""
  return ml_collections.ConfigDict(_tupled(values))


def _section(value: Any, hint: Any, path: str, problems: list[str]) -> Any:
  """A dataclass, one of several by its `kind`, or a dict of them by name."""
  if not isinstance(value, ml_collections.ConfigDict):
    problems.append(f'expected a section {path}, found {value!r}')
    return None
  before = f'{path}.' if path else ''
  if typing.get_origin(hint) is dict:
    of_each = typing.get_args(hint)[1]
    return {
      name: _section(value[name], of_each, f'{before}{name}', problems)
      for name in value
    }
  if isinstance(hint, types.UnionType):
    kind, known = value.get('kind'), kinds(hint)
    if kind not in known:
      problems.append(
        f'expected {before}kind to be one of {sorted(known)}, found {kind!r}; start '
        'from what configs/base.py has'
      )
      return None
    hint = known[kind]
  return _build(hint, value, before, problems)


def _is_section(hint: Any) -> bool:
  several = isinstance(hint, types.UnionType) or typing.get_origin(hint) is dict
  return several or dataclasses.is_dataclass(hint)


def _build(kind: type, config: Any, prefix: str, problems: list[str]) -> Any:
  hints = typing.get_type_hints(kind)
  unknown = sorted(set(config.keys()) - set(hints))
  for name in unknown:
    problems.append(_unknown(f'{prefix}{name}'))
  values = {}
  for name, hint in hints.items():
    if any(renamed.field(f'{prefix}{old}') == f'{prefix}{name}' for old in unknown):
      continue  # said already
    make = _section if _is_section(hint) else _value
    values[name] = make(config.get(name), hint, f'{prefix}{name}', problems)
  try:
    return kind(**values) if not problems else None
  except ValueError as error:
    problems.append(f'{prefix.rstrip(".")}: {error}' if prefix else str(error))
    return None


def _unknown(path: str) -> str:
  new = renamed.field(path)
  if new:
    return f'expected {new}, found its old name {path}; rename it'
  return f'expected no field {path}, found one; remove it'


def _value(value: Any, hint: Any, path: str, problems: list[str]) -> Any:
  if value is None:
    problems.append(
      f'expected a value for {path}, found none; pass --config.{path}=...'
    )
    return None
  if typing.get_origin(hint) is Literal:
    choices = typing.get_args(hint)
    if value not in choices:
      problems.append(
        f'expected {path} to be one of {", ".join(map(str, choices))}, found {value!r}'
      )
    return value
  plain = _plain(hint)
  if plain is float and type(value) in (int, float):
    return _number(float(value), path, problems)
  if plain is tuple and isinstance(value, (tuple, list)):
    element = typing.get_args(hint)[0]
    if element is float:
      value = [
        _number(float(item), path, problems) if type(item) in (int, float) else item
        for item in value
      ]
    if any(type(item) is not element for item in value):
      problems.append(f'expected {path} to hold {element.__name__}s, found {value!r}')
    return tuple(value)
  if type(value) is not plain:
    problems.append(f'expected {path} to be of type {plain.__name__}, found {value!r}')
  return value


def _number(value: float, path: str, problems: list[str]) -> float:
  if not math.isfinite(value):
    problems.append(f'expected a number for {path}, found {value}; change it')
  return value


def _plain(hint: Any) -> type:
  if typing.get_origin(hint) is Literal:
    return type(typing.get_args(hint)[0])
  origin = typing.get_origin(hint)
  assert not isinstance(origin, types.UnionType), hint
  return origin or hint


def _tupled(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _tupled(item) for key, item in value.items()}
  return tuple(value) if isinstance(value, list) else value
