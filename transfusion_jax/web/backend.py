"""A trained model at the disposal of the page: an order in, pieces out."""

import dataclasses
import pathlib
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from transfusion_jax.core import command
from transfusion_jax.generation import logits, requests, tasks, writer
from transfusion_jax.generation.samplers import denoise
from transfusion_jax.runs import requests as requests_lib

_ROWS = 16
"""Most requests that share a batch."""

_Value = TypeVar('_Value')


@dataclasses.dataclass(frozen=True)
class Backend:
  """A trained model that does what a page orders, one order at a time.

  Attributes:
    model: the model.
    limits: what it can take.
    seconds: in which an order is done, or given up.
  """

  model: writer.Writer
  limits: requests_lib.Limits
  seconds: float
  _busy: threading.Lock = dataclasses.field(default_factory=threading.Lock)

  def make(
    self, order: requests_lib.Order, sampling: denoise.ImageSampling, temperature: float
  ) -> list[list[requests.Piece]]:
    """Performs a request; one list of pieces per `count`.

    Args:
      order: what is asked for; names of files are whole paths.
      sampling: how pictures are drawn.
      temperature: of text; 0 is greedy.

    Raises:
      command.Exit: something that the user can mend, said in one line; or it takes too
        long.
    """
    return self._within(lambda: self._made(order, sampling, temperature))

  def _made(self, order, sampling, temperature) -> list[list[requests.Piece]]:
    with command.user_errors():
      text = dataclasses.replace(logits.GREEDY, temperature=temperature)
      asked = list(
        self.limits.tasks(
          order, pathlib.Path(), seed=0, pictures=0, steps=sampling.steps
        )
      )
    done = tasks.perform(self.model, asked, sampling, text, rows=_ROWS, stop=())
    return [pieces for _, pieces in done]

  def _within(self, work: Callable[[], _Value]) -> _Value:
    """Result of the work; command.Exit if it, or the work before it, takes too long.

    Work on a device cannot be stopped: it goes on until it is done, and the next order
    waits for it.
    """
    done: queue.SimpleQueue = queue.SimpleQueue()
    if not self._busy.acquire(timeout=self.seconds):
      raise _late('the one before it at work', self.seconds)

    def act() -> None:
      try:
        done.put((work(), None))
      except BaseException as error:  # noqa: BLE001 - raised where it is waited for
        done.put((None, error))
      finally:
        self._busy.release()

    try:
      threading.Thread(target=act, daemon=True).start()
    except Exception as error:  # then nothing began that would release it
      self._busy.release()
      raise command.Exit(
        2, f'error: expected a new thread, found none ({error}); try again later'
      ) from error
    try:
      value, error = done.get(timeout=self.seconds)
    except queue.Empty:
      raise _late('it at work', self.seconds) from None
    if error is not None:
      raise error
    return value


def _late(found: str, seconds: float) -> command.Exit:
  return command.Exit(
    2,
    f'error: expected an answer within {seconds:g} seconds, found {found} still; try '
    'again later, with fewer images or steps',
  )
