"""A web page on this machine, to try a trained run: `python -m transfusion_jax.demo`.

  python -m transfusion_jax.demo --workdir=DIR
  python -m transfusion_jax.demo --workdir=DIR --port=7861

Draws, describes, changes and writes on, whatever the run has learnt; one request at a
time. The page is for this machine alone unless `--host` says otherwise: whoever reaches
the port may use it. Needs Gradio: `pip install 'transfusion-jax[demo]'`.
"""

import dataclasses
import pathlib
import socket

from absl import flags

from transfusion_jax import orders, page, trained
from transfusion_jax.core import command
from transfusion_jax.generation import image, logits, requests, tasks, writer
from transfusion_jax.training import mesh, workdir

_WORKDIR = flags.DEFINE_string('workdir', None, 'Work directory of a trained run.')
_PORT = flags.DEFINE_integer('port', 7860, 'Of the page.', 1, 65535)
_HOST = flags.DEFINE_string('host', '127.0.0.1', 'Address that the page is served at.')

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


def main() -> None:
  """Checks everything a user can get wrong, then serves the page until Ctrl-C."""
  with command.user_errors():
    if not _WORKDIR.value:
      raise ValueError('expected --workdir=DIR, found none; name a trained run')
    page.gradio()
    place = workdir.Workdir(pathlib.Path(_WORKDIR.value))
    run = trained.for_this_device(trained.run_in(place))
    check_free(_HOST.value, _PORT.value)
    limits = orders.limits(run)
    model = trained.writer(run, place, mesh.single())
  built = page.build(
    Studio(model, limits).make,
    run.sampling,
    title=place.root.resolve().name,
    levels=limits.levels,
    draws=model.codec is not None,
  )
  print(f'http://{_HOST.value}:{_PORT.value}', flush=True)
  page.serve(built, _HOST.value, _PORT.value)


def check_free(host: str, port: int) -> None:
  """Raises ValueError if nothing can be served at an address."""
  with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      probe.bind((host, port))
    except OSError as error:
      raise ValueError(
        f'expected a free port, found {host}:{port} taken ({error.strerror}); change '
        '--port or --host'
      ) from error


if __name__ == '__main__':
  command.run(main)
