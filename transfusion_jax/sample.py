"""Samples from a trained run: pictures, captions, answers, edits, documents of both.

  python -m transfusion_jax.sample --workdir=DIR --prompt="a panda on a blue background"

and, in place of the prompt,

  --image=a.png                               a caption of it
  --image=a.png --question="how many?"        an answer
  --image=a.png --instruction="add a guitar"  an edited picture
  --image=a.png --mask=m.png --prompt="..."   drawn anew where the mask is white
  --image=a.png --strength=0.6                variations of it
  --requests=orders.jsonl                     all that the lines of a file ask for
                                              (`transfusion_jax/runs/requests.py`)

or nothing at all: the model writes documents of text and pictures. A run that has
learnt no pictures writes on from the prompt. `--step=5000` takes that checkpoint
instead of the newest.

What is made is printed, and goes to `DIR/samples` unless `--output` says otherwise: PNG
files and a line of `samples.jsonl` each. Existing files are kept.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator

import tqdm
from absl import flags

from transfusion_jax.core import command, paths
from transfusion_jax.data.images import image_files
from transfusion_jax.generation import logits, requests, tasks
from transfusion_jax.generation.samplers import denoise
from transfusion_jax.runs import config, restore
from transfusion_jax.runs import requests as requests_lib
from transfusion_jax.training import checkpoint_reader, mesh, workdir

_WORKDIR = flags.DEFINE_string('workdir', None, 'Work directory of a trained run.')
_REQUESTS = flags.DEFINE_string('requests', None, 'JSON Lines file of what to make.')
_PROMPT = flags.DEFINE_string('prompt', None, 'Draw this.')
_IMAGE = flags.DEFINE_string('image', None, 'Describe or change the picture in a file.')
_QUESTION = flags.DEFINE_string('question', None, 'Answer this about the picture.')
_INSTRUCTION = flags.DEFINE_string('instruction', None, 'Change the picture like this.')
_MASK = flags.DEFINE_string('mask', None, 'Draw the picture anew where this is white.')
_STRENGTH = command.define_number(
  'strength', None, 'Vary it, above 0 up to 1.', low=0, high=1
)
_OUTPUT = flags.DEFINE_string('output', None, 'Folder for what is made.')
_STEP = flags.DEFINE_string('step', 'latest', 'Number of a checkpoint, or latest.')
_COUNT = flags.DEFINE_integer(
  'count', 4, 'How many images or documents.', *requests_lib.COUNTS
)
_ROWS = flags.DEFINE_integer('rows', 16, 'Most requests at a time.', 1, 2**16)
_SEED = flags.DEFINE_integer(
  'seed', 0, 'Of all that is drawn at random.', *command.SEEDS
)
_SOLVER = flags.DEFINE_enum(
  'solver', None, ['ddpm', 'ddim', 'dpm2m', 'euler', 'heun'], 'How steps are taken.'
)
_STEPS = flags.DEFINE_integer('steps', None, 'Denoising steps.', 1, 2**20)
_GUIDANCE = command.define_number(
  'guidance', None, 'Scale; 1 is none.', low=0, high=1000
)
_TEMPERATURE = command.define_number(
  'temperature', None, '0 is greedy.', low=0, high=1000
)
_TOP_K = flags.DEFINE_integer('top_k', 0, 'Of text; 0 is all.', 0, 2**30)
_TOP_P = command.define_number('top_p', 1.0, 'Of text; 1 is all.', low=0, high=1)
_MIN_P = command.define_number('min_p', 0.0, 'Of text; 0 is all.', low=0, high=1)
_LIMIT = flags.DEFINE_integer('limit', 2**20, 'Most tokens of a text.', 0, 2**30)
_STOP = flags.DEFINE_list('stop', [], 'Strings before which text ends.')
_PICTURES = flags.DEFINE_integer(
  'pictures',
  None,
  'Most images in a free document; 2 unless the run has learnt none.',
  *requests_lib.PICTURES,
)


def main() -> None:
  """Checks everything a user can get wrong, then samples."""
  with command.user_errors():
    run, place, sampling = _settings()
    asked = list(_tasks(run, sampling.steps))
    text = _text(asked)
    step = checkpoint_reader.named(place.checkpoints, _STEP.value)
    output = command.output_folder(
      'output', _OUTPUT.value or str(place.root / 'samples')
    )
    lines = command.output_file('output', str(output / 'samples.jsonl'))
    writer = restore.writer(run, place, mesh.single(), step=step)
  bar = tqdm.tqdm(total=len(asked), unit='request', disable=len(asked) == 1)
  done = tasks.perform(
    writer,
    [task for _, task in asked],
    sampling,
    text,
    rows=_ROWS.value,
    stop=_STOP.value,
  )
  with bar, lines.open('a', encoding='utf-8') as file:
    for number, pieces in done:
      order, task = asked[number]
      found = list(_kept(pieces, output))
      line = {'request': order, 'seed': task.seed, 'made': found}
      file.write(json.dumps(line, ensure_ascii=False) + '\n')
      bar.update()
      _tell(task, found, output)


def _settings() -> tuple[config.TransfusionRun, workdir.Workdir, denoise.ImageSampling]:
  if not _WORKDIR.value:
    raise ValueError('expected --workdir=DIR, found none; name a trained run')
  if not all(_STOP.value):
    raise ValueError(
      f'expected --stop=STRING,STRING, found an empty one in {_STOP.value}; take out a '
      'comma'
    )
  place = workdir.at(_WORKDIR.value)
  run = restore.for_this_device(restore.run_in(place))
  chosen = {'guidance': _GUIDANCE.value, 'steps': _STEPS.value, 'solver': _SOLVER.value}
  chosen = {name: value for name, value in chosen.items() if value is not None}
  return run, place, dataclasses.replace(run.sampling, **chosen)


def _text(asked: list[tuple[requests_lib.Order, tasks.Task]]) -> logits.TextSampling:
  """Greedy unless asked else; documents that are written freely are not."""
  temperature = _TEMPERATURE.value
  if temperature is None:
    temperature = float(any(task.kind == 'interleave' for _, task in asked))
  return logits.TextSampling(
    temperature, _TOP_K.value, _TOP_P.value, _MIN_P.value, _LIMIT.value
  )


def _tasks(
  run: config.TransfusionRun, steps: int
) -> Iterator[tuple[requests_lib.Order, tasks.Task]]:
  """All that is to be made, each with the order that it comes from."""
  limits = requests_lib.limits(run)
  given = {'seed': _SEED.value, 'pictures': _PICTURES.value, 'steps': steps}
  for where, folder, order in _orders():
    try:
      for task in limits.tasks(order, folder, **given):
        yield order, task
    except (ValueError, OSError) as error:
      raise ValueError(f'{where}: {error}' if where else str(error)) from error


def _orders() -> Iterator[tuple[str, pathlib.Path, requests_lib.Order]]:
  """Each order, the place that it comes from, and the folder of its files."""
  given = (_PROMPT, _IMAGE, _QUESTION, _INSTRUCTION, _MASK, _STRENGTH)
  order = {flag.name: flag.value for flag in given if flag.value is not None}
  if _REQUESTS.value is not None:
    if order:
      raise ValueError(
        f'expected --requests alone, found --{" --".join(order)} as well; put all into '
        'the file'
      )
    file = paths.local(_REQUESTS.value, '--requests')
    yield from ((where, file.parent, each) for where, each in requests_lib.read(file))
    return
  if 'prompt' in order and 'image' not in order and not order['prompt'].split():
    raise ValueError(
      'expected words in --prompt, found none; leave the flag out to let the model '
      'write freely'
    )
  if not order:
    order = {'document': []}
  several = list(order) in (['prompt'], ['document']) or 'strength' in order
  if several or 'mask' in order:
    order['count'] = _COUNT.value
  yield '', pathlib.Path(), order


def _kept(
  pieces: list[requests.Piece], output: pathlib.Path
) -> Iterator[dict[str, str]]:
  """Record of a sample in `samples.jsonl`; its images are written to files."""
  for piece in pieces:
    if piece.text is not None:
      yield {'text': piece.text}
    else:
      yield {'image': _write(output, image_files.encode_png(piece.picture)).name}


def _write(output: pathlib.Path, png: bytes) -> pathlib.Path:
  """Writes an image under the next free number; never over anything that is there."""
  number = sum(1 for _ in output.glob('*.png'))
  while True:
    path = output / f'{number:04}.png'
    try:
      with path.open('xb') as file:
        file.write(png)
    except FileExistsError:
      number += 1
    else:
      return path


def _tell(task: tasks.Task, found: list[dict[str, str]], output: pathlib.Path) -> None:
  """Prints it: texts as they are, pictures by their files."""
  if task.kind == 'interleave':
    tqdm.tqdm.write(f'document {task.seed - _SEED.value}')
  for each in found:
    said = each['text'] if 'text' in each else str(output / each['image'])
    tqdm.tqdm.write(f'  {said}' if task.kind == 'interleave' else said)
  if not found:
    tqdm.tqdm.write('' if task.kind != 'interleave' else '  (nothing)')


if __name__ == '__main__':
  command.run(main)
