"""What the buttons of the page do: fields become orders, what is made becomes a result.

Nothing here knows of Gradio, which shows it (`transfusion_jax/page.py`).
"""

import base64
import dataclasses
import html
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from transfusion_jax import orders
from transfusion_jax.core import command
from transfusion_jax.data import images
from transfusion_jax.generation import image, requests

Make = Callable[[orders.Order, image.ImageSampling, float], list[list[requests.Piece]]]
"""From an order, a way of drawing and a temperature to what is made, per `count`."""

NOTHING = '(nothing)'


@dataclasses.dataclass(frozen=True)
class Buttons:
  """What the buttons do with the values of the fields.

  All raise `command.Exit` for what the user can mend. `drawing` is the seed, the
  solver, the number of steps and the scale of guidance.

  Attributes:
    make: does an order.
    sampling: how pictures are drawn, but for what `drawing` says.
  """

  make: Make
  sampling: image.ImageSampling

  def draw(self, prompt: str, count: int, *drawing: Any) -> list[requests.Picture]:
    """Pictures of a prompt; of anything if it is empty."""
    return self._drawn({'prompt': prompt, 'count': count}, drawing)

  def describe(self, picture: str | None, question: str) -> str:
    """A caption of a picture file, or the answer to a question about it."""
    order = {'image': _given(picture)}
    if question.split():
      order['question'] = question
    (pieces,) = self.make(order, self.sampling, 0.0)
    return ''.join(piece.text for piece in pieces) or NOTHING

  def edit(
    self, picture: str | None, instruction: str, *drawing: Any
  ) -> list[requests.Picture]:
    """What a picture file becomes by an instruction."""
    return self._drawn({'image': _given(picture), 'instruction': instruction}, drawing)

  def inpaint(
    self, painted: Mapping[str, Any] | None, prompt: str, *drawing: Any
  ) -> list[requests.Picture]:
    """A picture drawn anew where it was painted over.

    Args:
      painted: its `background`, [h, w, 3 or 4], and the `layers` upon it, [h, w, 4], as
        uint8, or None.
      prompt: what it is to show.
      *drawing: see above.
    """
    background = _given(None if painted is None else painted['background'])
    mask = painted_over(painted['layers'], background.shape[:2])
    with tempfile.TemporaryDirectory() as folder:
      order = {'image': f'{folder}/picture.png', 'mask': f'{folder}/mask.png'}
      white = np.repeat(np.uint8(255) * mask[..., None], 3, axis=-1)
      for path, pixels in zip(order.values(), (background, white), strict=True):
        pathlib.Path(path).write_bytes(images.encode_png(pixels[..., :3]))
      return self._drawn({**order, 'prompt': prompt}, drawing)

  def vary(
    self,
    picture: str | None,
    strength: float,
    prompt: str,
    count: int,
    *drawing: Any,
  ) -> list[requests.Picture]:
    """Pictures like that of a file."""
    order = {'image': _given(picture), 'strength': strength, 'prompt': prompt}
    return self._drawn({**order, 'count': count}, drawing)

  def write(
    self, beginning: str, pictures: int, temperature: float, *drawing: Any
  ) -> str:
    """HTML of a document, written on from its beginning."""
    parts = [beginning] if beginning.split() else []
    order = {'document': parts, 'pictures': pictures}
    (pieces,) = self._made(order, drawing, temperature)
    return story(beginning, pieces)

  def _drawn(self, order: orders.Order, drawing: Sequence[Any]):
    return [piece.picture for (piece,) in self._made(order, drawing, 0.0)]

  def _made(self, order: orders.Order, drawing: Sequence[Any], temperature: float):
    seed, *chosen = drawing
    names = ('solver', 'steps', 'guidance')
    sampling = dataclasses.replace(
      self.sampling, **dict(zip(names, chosen, strict=bool(chosen)))
    )
    return self.make({**order, 'seed': seed}, sampling, temperature)


def painted_over(layers: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
  """Where any of the layers [h, w, 4] is not transparent; bool [h, w].

  Raises:
    command.Exit: nowhere.
  """
  mask = np.zeros(shape, bool)
  for layer in layers:
    mask |= layer[..., 3] > 0
  with command.user_errors():
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
      data = base64.b64encode(images.encode_png(piece.picture)).decode()
      found.append(
        f'<p><img alt="a picture" width=256 src="data:image/png;base64,{data}"></p>'
      )
  return ''.join(found) if pieces else ''.join([*found, f'<p>{NOTHING}</p>'])


def _given(picture: Any) -> Any:
  """The same; `command.Exit` if there is none."""
  with command.user_errors():
    if picture is None:
      raise ValueError('expected a picture, found none; put one above the button')
  return picture
