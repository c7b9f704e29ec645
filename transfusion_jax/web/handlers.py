"""Handlers of the page's buttons: from fields to requests, from pieces to results.

Nothing here knows of Gradio, which shows it (`transfusion_jax/web/page.py`).
"""

import base64
import dataclasses
import html
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np

from transfusion_jax.core import command
from transfusion_jax.data.images import image_files
from transfusion_jax.diffusion import solvers
from transfusion_jax.generation import requests
from transfusion_jax.generation.samplers import denoise
from transfusion_jax.runs import requests as requests_lib

Make = Callable[
  [requests_lib.Order, denoise.ImageSampling, float], list[list[requests.Piece]]
]
"""From an order, a way of drawing and a temperature to what is made, per `count`."""

NOTHING = '(nothing)'

COUNTS, PICTURES, STRENGTHS = (1, 16), (0, 4), (0.01, 1.0)
GUIDANCE, TEMPERATURES = (1.0, 10.0), (0.0, 2.0)
"""Least and most that a field takes, whatever a browser says."""

CHARACTERS = 10_000
"""Characters of the longest text."""


@dataclasses.dataclass(frozen=True)
class Handlers:
  """Handlers of the buttons, called with the values of the fields.

  All raise `command.Exit` for what the user can mend. `drawing` is the seed, the
  solver, the number of steps and the scale of guidance.

  Attributes:
    make: does an order.
    sampling: how pictures are drawn, but for what `drawing` says.
  """

  make: Make
  sampling: denoise.ImageSampling

  def draw(self, prompt: Any, count: Any, *drawing: Any) -> list[requests.Picture]:
    """Pictures of a prompt; of anything if it is empty."""
    with command.user_errors():
      order = {
        'prompt': _text('prompt', prompt),
        'count': _whole('count', count, COUNTS),
      }
    return self._drawn(order, drawing)

  def describe(self, picture: str | None, question: Any) -> str:
    """A caption of a picture file, or the answer to a question about it."""
    with command.user_errors():
      order = {'image': _given(picture)}
      if _text('question', question).split():
        order['question'] = question
    (pieces,) = self.make(order, self.sampling, 0.0)
    return ''.join(piece.text for piece in pieces) or NOTHING

  def edit(
    self, picture: str | None, instruction: Any, *drawing: Any
  ) -> list[requests.Picture]:
    """Edits an image file by an instruction."""
    with command.user_errors():
      order = {'image': _given(picture)}
      order['instruction'] = _text('instruction', instruction)
    return self._drawn(order, drawing)

  def inpaint(
    self, painted: Mapping[str, Any] | None, prompt: Any, *drawing: Any
  ) -> list[requests.Picture]:
    """A picture drawn anew where it was painted over.

    Args:
      painted: its `background`, [h, w, 3 or 4], and the `layers` upon it, [h, w, 4], as
        uint8, or None.
      prompt: what it is to show.
      *drawing: see above.
    """
    with command.user_errors():
      words = _text('prompt', prompt)
      background = _given(None if painted is None else painted['background'])
    mask = painted_over(painted['layers'], background.shape[:2])
    with tempfile.TemporaryDirectory() as folder:
      order = {'image': f'{folder}/picture.png', 'mask': f'{folder}/mask.png'}
      white = np.repeat(np.uint8(255) * mask[..., None], 3, axis=-1)
      for path, pixels in zip(order.values(), (background, white), strict=True):
        pathlib.Path(path).write_bytes(image_files.encode_png(pixels[..., :3]))
      return self._drawn({**order, 'prompt': words}, drawing)

  def vary(
    self, picture: str | None, strength: Any, prompt: Any, count: Any, *drawing: Any
  ) -> list[requests.Picture]:
    """Pictures like that of a file."""
    with command.user_errors():
      order = {
        'image': _given(picture),
        'strength': _number('strength', strength, STRENGTHS),
        'prompt': _text('prompt', prompt),
        'count': _whole('count', count, COUNTS),
      }
    return self._drawn(order, drawing)

  def write(
    self, beginning: Any, pictures: Any, temperature: Any, *drawing: Any
  ) -> str:
    """HTML of a document, written on from its beginning."""
    with command.user_errors():
      parts = [beginning] if _text('beginning', beginning).split() else []
      order = {'document': parts, 'pictures': _whole('pictures', pictures, PICTURES)}
      temperature = float(_number('temperature', temperature, TEMPERATURES))
    (pieces,) = self._made(order, drawing, temperature)
    return story(beginning, pieces)

  def _drawn(self, order: requests_lib.Order, drawing: Sequence[Any]):
    return [piece.picture for (piece,) in self._made(order, drawing, 0.0)]

  def _made(
    self, order: requests_lib.Order, drawing: Sequence[Any], temperature: float
  ):
    seed, *chosen = drawing
    with command.user_errors():
      order = {**order, 'seed': _whole('seed', seed, command.SEEDS)}
      sampling = self._sampling(*chosen)
    return self.make(order, sampling, temperature)

  def _sampling(self, solver=None, steps=None, guidance=None) -> denoise.ImageSampling:
    """Sampling of images; the run's own where the fields say nothing."""
    if (solver, steps, guidance) == (None, None, None):
      return self.sampling
    kinds = get_args(solvers.Kind)
    if solver not in kinds:
      raise ValueError(f'expected a solver among {", ".join(kinds)}, found another')
    return dataclasses.replace(
      self.sampling,
      solver=solver,
      steps=_whole('steps', steps, (1, 2**20)),
      guidance=float(_number('guidance', guidance, GUIDANCE)),
    )


def painted_over(layers: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
  """Mask of the pixels where a layer [h, w, 4] is not transparent; bool [h, w].

  Raises:
    command.Exit: nowhere, or a layer has another size.
  """
  mask = np.zeros(shape, bool)
  with command.user_errors():
    for layer in layers:
      if layer.shape[:2] != mask.shape:
        raise ValueError(
          f'expected paint as large as the picture, {mask.shape}, found '
          f'{layer.shape[:2]}; paint again'
        )
      mask |= layer[..., 3] > 0
    if not mask.any():
      raise ValueError(
        'expected paint where the picture is to be drawn anew, found none; paint on it'
      )
  return mask


def story(beginning: str, pieces: Sequence[requests.Piece]) -> str:
  """HTML of texts and pictures in turn, without a reference to any file."""
  found = [f'<p><b>{html.escape(beginning)}</b></p>'] * bool(beginning.split())
  for piece in pieces:
    if piece.picture is None:
      found.append(f'<p>{html.escape(piece.text)}</p>')
    else:
      data = base64.b64encode(image_files.encode_png(piece.picture)).decode()
      found.append(
        f'<p><img alt="a picture" width=256 src="data:image/png;base64,{data}"></p>'
      )
  return ''.join(found) if pieces else ''.join([*found, f'<p>{NOTHING}</p>'])


def _given(picture: Any) -> Any:
  """The same; ValueError if there is none."""
  if picture is None:
    raise ValueError('expected a picture, found none; put one above the button')
  return picture


def _text(name: str, value: Any) -> str:
  """The same; ValueError if it is no text, or too long a one."""
  if not isinstance(value, str) or len(value) > CHARACTERS:
    found = f'{len(value)}' if isinstance(value, str) else requests_lib.shown(value)
    raise ValueError(
      f'expected {name} to be a text of at most {CHARACTERS} characters, found '
      f'{found}; shorten it'
    )
  return value


def _number(name: str, value: Any, bounds: tuple[Any, Any]) -> float | int:
  """The same; ValueError if it is no number, or outside of the bounds."""
  low, high = bounds
  if type(value) not in (int, float) or not low <= value <= high:
    raise ValueError(
      f'expected {name} from {low} to {high}, found {requests_lib.shown(value)}; '
      'change it'
    )
  return value


def _whole(name: str, value: Any, bounds: tuple[int, int]) -> int:
  """A whole number, in whichever way a browser has written it; else ValueError."""
  number = _number(name, value, bounds)
  if number != int(number):
    raise ValueError(f'expected a whole number of {name}, found {number}; change it')
  return int(number)
