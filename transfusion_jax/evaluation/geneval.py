"""Pictures for GenEval's own scorer, in the folders that it reads (Ghosh et al., 2023).

Its prompt file, `evaluation_metadata.jsonl`, has a line for every prompt: what is
asked, and what an object detector must find. The first line becomes the folder

  00000/  metadata.jsonl   the line, as it is
          grid.png         all pictures side by side, for people
          samples/         0000.png, 0001.png, ...

The scorer itself needs a GPU and detectors of its own; it is run elsewhere on a folder
written here. `scenes.py` scores the same six categories on emoji scenes, exactly.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt8
from PIL import Image

from transfusion_jax.core import digest, json_text, log, paths
from transfusion_jax.data.images import image_files
from transfusion_jax.evaluation import extras, report
from transfusion_jax.generation import writer as writer_lib
from transfusion_jax.generation.samplers import denoise

GAP = 2
"""Black pixels between the pictures of a grid, and around them."""


@dataclasses.dataclass(frozen=True)
class GenevalConfig:
  """Settings of GenEval: its prompts, and the folder of their images.

  Attributes:
    kind: tells this evaluator from the others.
    prompts: GenEval's prompt file.
    directory: of the pictures; each model, with how it was asked, has its own folder.
    images: of every prompt; 4 in the paper.
    shown: prompts in the report, with their first picture.
    seed: of the noise.
  """

  kind: Literal['geneval']
  prompts: str
  directory: str
  images: int
  shown: int
  seed: int

  def __post_init__(self):
    if self.images < 1 or not self.directory:
      raise ValueError(
        'expected a directory and at least 1 image a prompt, found '
        f'{self.directory!r} and {self.images}; the paper draws 4'
      )
    prompts = paths.anywhere(self.prompts, 'geneval.prompts')
    directory = str(paths.local(self.directory, 'geneval.directory'))
    object.__setattr__(self, 'prompts', prompts)
    object.__setattr__(self, 'directory', directory)


class Prompt(NamedTuple):
  """One line of the prompt file, and what is asked there."""

  line: str
  text: str


class Geneval:
  """The evaluator; what an earlier call has finished is kept."""

  def __init__(
    self, config: GenevalConfig, *, sampling: denoise.ImageSampling, rows: int
  ):
    """Reads the prompt file.

    Args:
      config: which prompts.
      sampling: how pictures are drawn.
      rows: pictures at a time; at least those of one prompt.

    Raises:
      ValueError: there is no such file, or a line is malformed.
    """
    self._config, self._sampling = config, sampling
    self._prompts = read(extras.file(config.prompts, "GenEval's prompt file"))
    self._together = max(rows // config.images, 1)

  def check(self) -> None:
    """Looks whether the pictures' folder can be made and written to."""
    there = self._directory
    while not there.exists() and there != there.parent:
      there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK):
      raise ValueError(
        f'expected a directory for pictures, found {there}, which cannot be written '
        'to; name another'
      )

  @property
  def _directory(self) -> pathlib.Path:
    return paths.local(self._config.directory, 'directory')

  def __call__(
    self, writer: writer_lib.Writer
  ) -> Iterator[tuple[str, float | report.Gallery]]:
    """Draws missing images; yields how many there are, and how many are new."""
    config = self._config
    folder = self._directory / self._name(writer)
    places = {k: folder / f'{k:05d}' for k in range(len(self._prompts))}
    missing = [k for k, place in places.items() if not place.exists()]
    for start in range(0, len(missing), self._together):
      part = missing[start : start + self._together]
      for k, pictures in zip(part, self._draw(writer, part), strict=True):
        _write(places[k], self._prompts[k].line, pictures)
    log.info(f'GenEval: pictures for its scorer are in {folder}')
    yield 'pictures', float(config.images * len(self._prompts))
    yield 'drawn', float(config.images * len(missing))
    tiles = [
      report.Tile(_first(place), prompt.text, good=None)
      for place, prompt in zip(places.values(), self._prompts, strict=True)
      if int(place.name) < config.shown
    ]
    if tiles:
      note = 'The first prompts of the file; they are not judged here.'
      yield 'drawings', report.Gallery("Drawings of GenEval's prompts", note, tiles)

  def _draw(
    self, writer: writer_lib.Writer, part: Sequence[int]
  ) -> UInt8[np.ndarray, 'p n h w 3']:
    """Pictures of some prompts; they do not depend on which are drawn together."""
    count = self._config.images
    texts = [self._prompts[k].text for k in part for _ in range(count)]
    drawn = writer.draw(texts, self._keys(part), self._sampling)
    return drawn.reshape(len(part), count, *drawn.shape[1:])

  def _keys(self, part: Sequence[int]) -> Key[Array, ' b']:
    first = jax.random.key(self._config.seed)
    each = [jax.random.fold_in(first, number) for number in part]
    return jnp.concatenate([jax.random.split(key, self._config.images) for key in each])

  def _name(self, writer: writer_lib.Writer) -> str:
    """A folder for this model and all that decides its pictures."""
    asked = (
      digest.text(jax.jit(digest.digest)((writer.model, writer.codec))),
      [prompt.line for prompt in self._prompts],
      dataclasses.asdict(self._sampling),
      self._config.images,
      self._config.seed,
    )
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def read(path: pathlib.Path) -> list[Prompt]:
  """The prompts of a file.

  Raises:
    ValueError: a line is not what the scorer reads; the message names it.
  """
  lines = json_text.lines(path.read_bytes())
  found = [_parse(line, f'{path}:{number}') for number, line in lines]
  if not found:
    raise _malformed(str(path), 'nothing')
  return found


def _parse(line: bytes, place: str) -> Prompt:
  try:
    value = json_text.parse(line)
  except ValueError as error:
    raise _malformed(place, f'no JSON ({error})') from error
  if not isinstance(value, Mapping):
    raise _malformed(place, f'{type(value).__name__}')
  for field, kind in (('tag', str), ('prompt', str), ('include', list)):
    if not isinstance(value.get(field), kind) or not value[field]:
      raise _malformed(place, f'{field}={value.get(field)!r}')
  if not isinstance(value.get('exclude', []), list):
    raise _malformed(place, f'exclude={value["exclude"]!r}')
  for asked in [*value['include'], *value.get('exclude', [])]:
    if not _counted(asked):
      raise _malformed(place, f'the object {asked!r}')
  return Prompt(line.decode().rstrip('\r'), value['prompt'])


def _counted(asked: Any) -> bool:
  """True if an object of the scene has its class and its number."""
  return (
    isinstance(asked, Mapping)
    and isinstance(asked.get('class'), str)
    and isinstance(asked.get('count'), int)
  )


def _malformed(place: str, found: str) -> ValueError:
  return ValueError(
    f'{place}: expected tag, prompt and include (objects with class and count), found '
    f'{found}; take evaluation_metadata.jsonl as GenEval has it'
  )


def _write(
  place: pathlib.Path, line: str, pictures: UInt8[np.ndarray, 'n h w 3']
) -> None:
  """Writes the folder of a prompt; it has its name when all is in it."""
  unfinished = place.with_name(f'unfinished_{place.name}')
  shutil.rmtree(unfinished, ignore_errors=True)
  (unfinished / 'samples').mkdir(parents=True)
  (unfinished / 'metadata.jsonl').write_text(line + '\n', encoding='utf-8')
  for number, picture in enumerate(pictures):
    _sample(unfinished, number).write_bytes(image_files.encode_png(picture))
  (unfinished / 'grid.png').write_bytes(image_files.encode_png(grid(pictures)))
  unfinished.rename(place)


def grid(pictures: UInt8[np.ndarray, 'n h w 3']) -> UInt8[np.ndarray, 'y x 3']:
  """Pictures in a row, with black between and around them."""
  framed = np.pad(pictures, ((0, 0), (GAP, GAP), (0, GAP), (0, 0)))
  return np.pad(np.concatenate(framed, axis=1), ((0, 0), (GAP, 0), (0, 0)))


def _sample(place: pathlib.Path, number: int) -> pathlib.Path:
  return place / 'samples' / f'{number:04d}.png'


def _first(place: pathlib.Path) -> UInt8[np.ndarray, 'h w 3']:
  with Image.open(_sample(place, 0)) as picture:
    return np.asarray(picture)
