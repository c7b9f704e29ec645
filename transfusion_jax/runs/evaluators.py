"""From a section of `evaluation.evaluators` to the evaluator that it describes."""

from transfusion_jax.data import pipeline
from transfusion_jax.data.rows import layout
from transfusion_jax.evaluation import (
  caption_metrics,
  drawings,
  evaluator,
  geneval,
  harness,
  image_loss,
  perplexity,
  samples,
)
from transfusion_jax.evaluation.emoji import scenes, tasks
from transfusion_jax.runs import config

OF_SCENES = ('scenes', 'scene_tasks')
"""Evaluators of emoji scenes."""

OF_TEXT = ('perplexity', 'heldout_perplexity', 'harness')
"""Evaluators that need no images."""


def make(
  run: config.TransfusionRun,
  section: config.Evaluator,
  plan: layout.Layout,
  latents: tuple[int, int, int],
) -> evaluator.Evaluator:
  """The evaluator of a section, its files opened; no device is asked for.

  Args:
    run: of the model that is evaluated.
    section: which, and how much.
    plan: of the run's documents.
    latents: height, width and channels of an image's latents.

  Raises:
    evaluator.Unsuited: the run's own data holds nothing out that suits it; a run
      without images has none, and one with images need not have texts alone.
    ValueError: it does not suit the run, or a file is missing.
  """
  _check(run, section)
  data, rows = run.data, run.evaluation.rows
  held = {'scenes': data.scenes, 'pictures': data.images, 'rows': rows}
  own = {'data': data, 'plan': plan, 'rows': rows}
  stored = (*latents[:2], 2 * latents[2]) if data.moments else pipeline.pixels(data)
  kinds = {
    'scenes': lambda it: scenes.Scenes(it, data.scenes, run.sampling, rows=rows),
    'scene_tasks': lambda it: tasks.SceneTasks(
      it, data.scenes, run.sampling, rows=rows
    ),
    'samples': lambda it: samples.Samples(it, sampling=run.sampling, **own),
    'heldout_image_loss': lambda it: image_loss.HeldoutImageLoss(
      it, image_shape=stored, **own
    ),
    'heldout_perplexity': lambda it: _of_texts(it, own),
    'perplexity': lambda it: perplexity.Perplexity(it, **held),
    'image_loss': lambda it: image_loss.ImageLoss(
      it, image_slots=data.image_slots, **held
    ),
    'drawings': lambda it: drawings.Drawings(it, sampling=run.sampling, **held),
    'captions': lambda it: caption_metrics.Captions(it, **held),
    'geneval': lambda it: geneval.Geneval(it, sampling=run.sampling, rows=rows),
    'harness': lambda it: harness.Harness(it, rows=rows),
  }
  return kinds[section.kind](section)


def _of_texts(section, own) -> evaluator.Evaluator:
  try:
    return perplexity.HeldoutPerplexity(section, **own)
  except evaluator.Unsuited as error:
    raise evaluator.Unsuited('' if own['data'].image_slots else str(error)) from error


def _check(run: config.TransfusionRun, section: config.Evaluator) -> None:
  """Raises ValueError if an evaluator cannot suit a run."""
  pictures = run.data.image_slots > 0
  if section.kind in ('samples', 'heldout_image_loss') and not pictures:
    raise evaluator.Unsuited
  if section.kind not in OF_TEXT and not pictures:
    raise ValueError(
      f'expected a run with pictures for {section.kind}, found data.image_slots=0; '
      'remove the evaluator, or name others with --only'
    )
  if section.kind in OF_SCENES and not pipeline.scene_forms(run.data):
    raise ValueError(
      f'expected emoji scenes among data.sources, found {sorted(run.data.sources)}; '
      'remove the evaluator'
    )
