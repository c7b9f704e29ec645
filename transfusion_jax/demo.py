"""A web page on this machine, to try a trained run: `python -m transfusion_jax.demo`.

  python -m transfusion_jax.demo --workdir=DIR
  python -m transfusion_jax.demo --workdir=DIR --port=7861

Draws, describes, changes and writes on, whatever the run has learnt; one request at a
time. The page is for this machine alone unless `--host` says otherwise: whoever reaches
the port may use it. Needs Gradio: `pip install 'transfusion-jax[demo]'`.
"""

from absl import flags

from transfusion_jax import orders, page, studio, trained
from transfusion_jax.core import command
from transfusion_jax.training import mesh, workdir

_WORKDIR = flags.DEFINE_string('workdir', None, 'Work directory of a trained run.')
_PORT = flags.DEFINE_integer('port', 7860, 'Of the page.', 1, 65535)
_HOST = flags.DEFINE_string('host', '127.0.0.1', 'Address that the page is served at.')


def main() -> None:
  """Checks everything a user can get wrong, then serves the page until Ctrl-C."""
  with command.user_errors():
    if not _WORKDIR.value:
      raise ValueError('expected --workdir=DIR, found none; name a trained run')
    page.gradio()
    place = workdir.at(_WORKDIR.value)
    run = trained.for_this_device(trained.run_in(place))
    page.check_free(_HOST.value, _PORT.value)
    limits = orders.limits(run)
    model = trained.writer(run, place, mesh.single())
  built = page.build(
    studio.Studio(model, limits).make,
    run.sampling,
    title=place.root.resolve().name,
    levels=limits.levels,
    draws=model.codec is not None,
  )
  print(f'http://{_HOST.value}:{_PORT.value}', flush=True)
  page.serve(built, _HOST.value, _PORT.value)


if __name__ == '__main__':
  command.run(main)
