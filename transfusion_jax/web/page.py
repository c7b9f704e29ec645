"""The page of `demo`, made of Gradio, which is imported only where a page is built.

What a browser sends is not believed: `gate` lets through what the page uses, files are
those that were uploaded (`uploads`), and fields are checked again (`buttons`).
"""

import html
import os
import pathlib
import re
import socket
import types
from collections.abc import Sequence
from typing import Any, get_args

from transfusion_jax.core import command
from transfusion_jax.diffusion import solvers
from transfusion_jax.generation.samplers import denoise
from transfusion_jax.web import gate, handlers, uploads

LAYERS = 8
"""Most layers of paint."""

WAITING = 32
"""Most requests that wait for the model."""

EVERYWHERE = ('0.0.0.0', '::')
"""Hosts that stand for all addresses of a machine."""


def gradio(folder: pathlib.Path) -> types.ModuleType:
  """Gradio, told to report to nobody.

  Args:
    folder: for uploads and what is made, of this page alone; else it would be one that
      all pages and users of a machine share.

  Raises:
    ImportError: it is not installed.
  """
  # Before it is imported, and as blocks are made.
  os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
  os.environ['GRADIO_TEMP_DIR'] = str(folder)
  try:
    import gradio as found
  except ImportError as error:
    raise ImportError(
      f'expected Gradio for the page, found none ({error}); pip install '
      "'transfusion-jax[demo]'"
    ) from error
  return found


def build(
  make: handlers.Make,
  sampling: denoise.ImageSampling,
  folder: pathlib.Path,
  *,
  title: str,
  levels: int,
  draws: bool,
) -> Any:
  """A `gradio.Blocks` with all that a model can do, one request at a time.

  Args:
    make: does an order.
    sampling: how pictures are drawn, unless the page says otherwise.
    folder: as `gradio` has it.
    title: of the page.
    levels: of noise; the most denoising steps.
    draws: whether there are pictures; else text is all that there is.
  """
  found = gradio(folder)
  do = handlers.Handlers(make, sampling)
  # Every hour, files older than a day go.
  with found.Blocks(
    title=title, analytics_enabled=False, delete_cache=(3600, 86400)
  ) as page:
    found.HTML(f'<h1>{html.escape(title)}</h1>')
    drawing = [found.Number(0, label='Seed', precision=0, render=False)]
    if draws:
      drawing += _drawing(found, sampling, levels)
      _draw_tab(found, do, drawing)
      _describe_tab(found, do, folder)
      _change_tab(found, do, drawing, folder)
    _write_tab(found, do, drawing, draws=draws)
    with found.Row():
      for field in drawing:
        field.render()
  return page


def serve(
  page: Any, folder: pathlib.Path, host: str, port: int, names: Sequence[str] = ()
) -> None:
  """Serves a page until Ctrl-C; what the browser asks for comes from here alone.

  Args:
    page: of `build`.
    folder: as it was built with.
    host: address that it is served at.
    port: of it.
    names: that a browser may know this machine by, besides `host`, with a port or
      without.
  """
  from starlette import middleware  # which Gradio is made of

  admitted = {
    'folder': folder,
    'hosts': hosts(host, port, names),
    'addresses': host in EVERYWHERE,
  }
  page.queue(max_size=WAITING, api_open=False)
  page.launch(
    server_name=host,
    server_port=port,
    app_kwargs={'middleware': [middleware.Middleware(gate.Gate, **admitted)]},
    allowed_paths=[],
    max_file_size=uploads.MOST_BYTES,
    enable_monitoring=False,
    strict_cors=True,
    mcp_server=False,
    pwa=False,
    share=False,
    show_error=True,
    footer_links=[],
    run_history=False,
    ssr_mode=False,
    quiet=True,
  )


def hosts(host: str, port: int, names: Sequence[str] = ()) -> set[str]:
  """Names by which a browser may call the page's host, in every spelling.

  Args:
    host: address that it is served at.
    port: of it.
    names: other names, with a port or without.
  """
  found = {'localhost', '127.0.0.1', '[::1]', f'[{host}]' if ':' in host else host}
  ported = {name for name in names if re.search(r':[0-9]+$', name)}
  found |= set(names) - ported
  plain = found if port == 80 else set()
  return {f'{name}:{port}' for name in found} | ported | plain


def check_free(host: str, port: int) -> None:
  """Raises ValueError if nothing can be served at an address."""
  try:
    ((family, kind, protocol, _, address), *_) = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM
    )
    with socket.socket(family, kind, protocol) as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      probe.bind(address)
  except (OSError, UnicodeError) as error:
    reason = getattr(error, 'strerror', None) or error
    raise ValueError(
      f'expected a free port, found {host}:{port} taken ({reason}); change --port or '
      '--host'
    ) from error


def _drawing(found, sampling: denoise.ImageSampling, levels: int) -> list[Any]:
  kinds = list(get_args(solvers.Kind))
  guidance = {'value': sampling.guidance, 'step': 0.1, 'label': 'Guidance'}
  return [
    found.Dropdown(kinds, value=sampling.solver, label='Solver', render=False),
    found.Slider(1, levels, value=sampling.steps, step=1, label='Steps', render=False),
    found.Slider(*handlers.GUIDANCE, **guidance, render=False),
  ]


def _draw_tab(found, do: handlers.Handlers, drawing: list[Any]) -> None:
  with found.Tab('Draw'):
    prompt = found.Textbox(label='Prompt', placeholder='anything, if left empty')
    count = found.Slider(*handlers.COUNTS, value=4, step=1, label='Pictures')
    inputs = [prompt, count, *drawing]
    _button(found, 'Draw', do.draw, inputs, _gallery(found))


def _describe_tab(found, do: handlers.Handlers, folder: pathlib.Path) -> None:
  with found.Tab('Describe'):
    picture = _picture(found, folder)
    question = found.Textbox(label='Question', placeholder='none: a caption')
    inputs = [picture, question]
    said = found.Textbox(label='What the model says', render=False)
    _button(found, 'Describe', do.describe, inputs, said)


def _change_tab(
  found, do: handlers.Handlers, drawing: list[Any], folder: pathlib.Path
) -> None:
  with found.Tab('Change'):
    with found.Tab('By words'):
      picture = _picture(found, folder)
      instruction = found.Textbox(label='Instruction')
      inputs = [picture, instruction, *drawing]
      _button(found, 'Edit', do.edit, inputs, _gallery(found))
    with found.Tab('Where painted'):
      painted = found.ImageMask(
        label='Picture, painted where it is to be drawn anew',
        sources=['upload', 'clipboard'],
        transforms=(),
        format='png',
      )
      painted.preprocess = lambda sent: _told(found, _painting, sent, folder)
      prompt = found.Textbox(label='Prompt', placeholder='anything, if left empty')
      inputs = [painted, prompt, *drawing]
      _button(found, 'Inpaint', do.inpaint, inputs, _gallery(found))
    with found.Tab('Alike'):
      picture = _picture(found, folder)
      strength = found.Slider(
        *handlers.STRENGTHS, value=0.6, step=0.01, label='Strength'
      )
      prompt = found.Textbox(label='Prompt', placeholder='what it shows; may be empty')
      count = found.Slider(*handlers.COUNTS, value=4, step=1, label='Pictures')
      inputs = [picture, strength, prompt, count, *drawing]
      _button(found, 'Vary', do.vary, inputs, _gallery(found))


def _write_tab(
  found, do: handlers.Handlers, drawing: list[Any], *, draws: bool
) -> None:
  with found.Tab('Write'):
    beginning = found.Textbox(label='Beginning', placeholder='may be empty', lines=3)
    pictures = found.State(0)
    if draws:
      pictures = found.Slider(
        *handlers.PICTURES, value=2, step=1, label='Most pictures'
      )
    temperature = found.Slider(
      *handlers.TEMPERATURES, value=1, step=0.05, label='Temperature'
    )
    inputs = [beginning, pictures, temperature, *drawing]
    _button(found, 'Write', do.write, inputs, found.HTML(render=False))


def _picture(found, folder: pathlib.Path) -> Any:
  picture = found.Image(label='Picture', sources=['upload', 'clipboard'])
  # The file as it came: Gradio would open it itself, and fail where it is broken.
  picture.preprocess = lambda sent: _told(found, _uploaded, sent, folder)
  return picture


def _uploaded(sent: Any, folder: pathlib.Path) -> str | None:
  """The path of a file that was sent, if it was uploaded; else ValueError."""
  return None if sent is None else str(uploads.check(sent.path, folder))


def _painting(sent: Any, folder: pathlib.Path) -> dict[str, Any] | None:
  """Pixels of an image and of the layers upon it; ValueError if they are none."""
  if sent is None:
    return None
  if len(sent.layers) > LAYERS:
    raise ValueError(f'expected at most {LAYERS} layers, found more; paint again')
  background, *layers = (
    None if each is None else uploads.painted(uploads.check(each.path, folder))
    for each in (sent.background, *sent.layers)
  )
  return {'background': background, 'layers': [x for x in layers if x is not None]}


def _gallery(found) -> Any:
  return found.Gallery(
    label='Pictures',
    format='png',
    object_fit='contain',
    height='auto',
    render=False,
  )


def _button(found, name: str, handler, inputs: list[Any], output) -> None:
  """A button with what it makes below it; one request at a time on the whole page."""

  def shown(*values):
    try:
      return handler(*values)
    except command.Exit as error:
      raise _error(found, error.message.removeprefix('error: ')) from None

  found.Button(name, variant='primary').click(
    shown,
    inputs,
    output.render(),
    api_name=name.lower(),
    concurrency_id='model',
    concurrency_limit=1,
  )


def _told(found, act, *values: Any) -> Any:
  """Result of an action; its ValueError becomes a line on the page."""
  try:
    return act(*values)
  except ValueError as error:
    raise _error(found, command.line(error)) from None


def _error(found, message: str) -> Exception:
  return found.Error(html.escape(message), duration=None, print_exception=False)
