"""Samples from a trained run: pictures of a prompt, a caption of a picture, or both.

  python -m transfusion_jax.sample --workdir=DIR --prompt="a panda on a blue background"
  python -m transfusion_jax.sample --workdir=DIR --image=picture.png
  python -m transfusion_jax.sample --workdir=DIR

The first writes PNGs, the second prints a caption, the third lets the model write
documents of text and pictures. Everything goes to `DIR/samples` unless `--output` says
otherwise; existing files are kept.
"""

import dataclasses
import pathlib

import jax
from absl import flags

from transfusion_jax import build, config, trained
from transfusion_jax.core import command
from transfusion_jax.data import images, pipeline
from transfusion_jax.generation import image, logits
from transfusion_jax.generation import writer as writer_lib
from transfusion_jax.training import mesh, workdir

_WORKDIR = flags.DEFINE_string('workdir', None, 'Work directory of a trained run.')
_PROMPT = flags.DEFINE_string('prompt', None, 'Draw this.')
_IMAGE = flags.DEFINE_string('image', None, 'Describe the picture in this file.')
_OUTPUT = flags.DEFINE_string('output', None, 'Folder for what is made.')
_COUNT = flags.DEFINE_integer('count', 4, 'How many pictures or documents.')
_GUIDANCE = flags.DEFINE_float('guidance', None, 'Scale of guidance; 1 is none.')
_STEPS = flags.DEFINE_integer('steps', None, 'Denoising steps.')
_SOLVER = flags.DEFINE_enum(
  'solver', None, ['ddpm', 'ddim', 'dpm2m', 'euler', 'heun'], 'How steps are taken.'
)
_TEMPERATURE = flags.DEFINE_float('temperature', 1.0, 'Of free text; 0 is greedy.')
_PICTURES = flags.DEFINE_integer('pictures', 2, 'Most pictures in a free document.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the noise.')


def main() -> None:
  """Checks everything a user can get wrong, then samples."""
  with command.user_errors():
    run, place, sampling = _settings()
    layout = build.text_layout(run)
    if _PROMPT.value is not None:
      _check_prompt(run, layout)
    picture = None
    if _IMAGE.value is not None:
      picture = images.read_picture(_IMAGE.value, pipeline.pixels(run.data)[:2])
    writer = trained.writer(run, place, mesh.single())
  output = pathlib.Path(_OUTPUT.value or place.root / 'samples')
  keys = jax.random.split(jax.random.key(_SEED.value), _COUNT.value)
  if picture is not None:
    print(writer.caption([picture], limit=writer.context)[0])
  elif _PROMPT.value is not None:
    for drawn in writer.draw([_PROMPT.value] * _COUNT.value, keys, sampling):
      print(_keep(output, images.encode_png(drawn)))
  else:
    _write_documents(writer, keys, sampling, output)


def _settings() -> tuple[config.TransfusionRun, workdir.Workdir, image.ImageSampling]:
  if not _WORKDIR.value:
    raise ValueError('expected --workdir=DIR, found none; name a trained run')
  if _PROMPT.value is not None and _IMAGE.value is not None:
    raise ValueError('expected --prompt or --image, found both; give one of them')
  if _COUNT.value < 1:
    raise ValueError(f'expected --count of at least 1, found {_COUNT.value}; raise it')
  place = workdir.Workdir(pathlib.Path(_WORKDIR.value))
  run = trained.for_this_device(trained.run_in(place))
  chosen = {'guidance': _GUIDANCE.value, 'steps': _STEPS.value, 'solver': _SOLVER.value}
  chosen = {name: value for name, value in chosen.items() if value is not None}
  sampling = dataclasses.replace(run.sampling, **chosen)
  if not 1 <= sampling.steps <= run.objective.path.steps:
    raise ValueError(
      f'expected between 1 and {run.objective.path.steps} sampling steps, found '
      f'{sampling.steps}; change --steps'
    )
  return run, place, sampling


def _check_prompt(run: config.TransfusionRun, layout) -> None:
  if not _PROMPT.value.split():
    raise ValueError(
      'expected words in --prompt, found none; leave the flag out to let the model '
      'write freely'
    )
  needed = len(layout.picture_prompt(_PROMPT.value)) + build.patch_count(run)
  if needed > run.data.row_length:
    raise ValueError(
      f'expected a prompt that leaves room for a picture in {run.data.row_length} '
      f'positions, found {needed} positions; shorten the prompt'
    )


def _write_documents(
  writer: writer_lib.Writer, keys, sampling, output: pathlib.Path
) -> None:
  documents = writer.tell(
    [()] * len(keys),
    keys,
    sampling,
    logits.TextSampling(_TEMPERATURE.value, 0, 1.0, 0.0, limit=writer.context),
    pictures=_PICTURES.value,
  )
  for number, pieces in enumerate(documents):
    print(f'document {number}')
    for piece in pieces:
      if piece.text is not None:
        print(f'  {piece.text}')
      else:
        print(f'  {_keep(output, images.encode_png(piece.picture))}')


def _keep(output: pathlib.Path, png: bytes) -> pathlib.Path:
  """Writes a picture under the next free number."""
  output.mkdir(parents=True, exist_ok=True)
  number = sum(1 for _ in output.glob('*.png'))
  while (output / f'{number:04}.png').exists():
    number += 1
  path = output / f'{number:04}.png'
  path.write_bytes(png)
  return path


if __name__ == '__main__':
  command.run(main)
