"""A web page on this machine, to try a trained run: `python -m transfusion_jax.demo`.

  python -m transfusion_jax.demo --workdir=DIR
  python -m transfusion_jax.demo --workdir=DIR --port=7861

Draws, describes, changes and writes on, whatever the run has learnt; one request at a
time. `--step=5000` takes that checkpoint instead of the newest. The page is for this
machine alone unless `--host` says otherwise: whoever reaches the port may use it. A
browser on another machine has to call it as `--host` does, or by a name or an address
in `--allow_host`. Needs Gradio: `pip install 'transfusion-jax[demo]'`.
"""

import pathlib
import signal
import tempfile

from absl import flags

from transfusion_jax.core import command
from transfusion_jax.runs import requests, restore
from transfusion_jax.training import checkpoint_reader, mesh, workdir
from transfusion_jax.web import backend, page

_WORKDIR = flags.DEFINE_string('workdir', None, 'Work directory of a trained run.')
_PORT = flags.DEFINE_integer('port', 7860, 'Of the page.', 1, 65535)
_HOST = flags.DEFINE_string('host', '127.0.0.1', 'Address that the page is served at.')
_ALLOW_HOST = flags.DEFINE_list(
  'allow_host', [], 'Other names of this machine, with a port or without.'
)
_STEP = flags.DEFINE_string('step', 'latest', 'Number of a checkpoint, or latest.')
_TIME_LIMIT = command.define_number(
  'time_limit',
  600,
  'Seconds for a request, and as many to wait for it.',
  low=1,
  high=10**6,
)


def main() -> None:
  """Serves the page until Ctrl-C; its files go with it."""
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  with tempfile.TemporaryDirectory(prefix='transfusion-demo-') as name:
    _serve(pathlib.Path(name).resolve())


def _serve(folder: pathlib.Path) -> None:
  """Checks everything a user can get wrong, then serves."""
  with command.user_errors():
    if not _WORKDIR.value:
      raise ValueError('expected --workdir=DIR, found none; name a trained run')
    page.gradio(folder)
    place = workdir.at(_WORKDIR.value)
    run = restore.for_this_device(restore.run_in(place))
    host, port = _HOST.value.strip('[]'), _PORT.value
    page.check_free(host, port)
    limits = requests.limits(run)
    step = checkpoint_reader.named(place.checkpoints, _STEP.value)
    model = restore.writer(run, place, mesh.single(), step=step)
  built = page.build(
    backend.Backend(model, limits, _TIME_LIMIT.value).make,
    run.sampling,
    folder,
    title=place.root.resolve().name,
    levels=limits.levels,
    draws=limits.draws,
  )
  print(f'http://{f"[{host}]" if ":" in host else host}:{port}', flush=True)
  page.serve(built, folder, host, port, _ALLOW_HOST.value)


if __name__ == '__main__':
  command.run(main)
