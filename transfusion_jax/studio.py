"""A trained model at the disposal of the page: an order in, pieces out."""

import dataclasses
import pathlib

from transfusion_jax import orders
from transfusion_jax.core import command
from transfusion_jax.generation import image, logits, requests, tasks, writer

_ROWS = 16
"""Most requests that share a batch."""


@dataclasses.dataclass(frozen=True)
class Studio:
  """A trained model that does what a page orders.

  Attributes:
    model: the model.
    limits: what it can take.
  """

  model: writer.Writer
  limits: orders.Limits

  def make(
    self, order: orders.Order, sampling: image.ImageSampling, temperature: float
  ) -> list[list[requests.Piece]]:
    """What the order asks for, one list of pieces per `count`.

    Args:
      order: what is asked for; names of files are whole paths.
      sampling: how pictures are drawn.
      temperature: of text; 0 is greedy.

    Raises:
      command.Exit: something that the user can mend, said in one line.
    """
    with command.user_errors():
      text = dataclasses.replace(logits.GREEDY, temperature=temperature)
      asked = list(
        self.limits.tasks(
          order, pathlib.Path(), seed=0, pictures=0, steps=sampling.steps
        )
      )
    done = tasks.perform(self.model, asked, sampling, text, rows=_ROWS, stop=())
    return [pieces for _, pieces in done]
