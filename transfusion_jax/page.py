"""The page of `demo`, made of Gradio, which is imported only where a page is built."""

import html
import os
import socket
import types
from typing import Any, get_args

from transfusion_jax import buttons
from transfusion_jax.core import command
from transfusion_jax.diffusion import solvers
from transfusion_jax.generation import image


def gradio() -> types.ModuleType:
  """Gradio, told to report to nobody.

  Raises:
    ImportError: it is not installed.
  """
  os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # before it is imported
  try:
    import gradio as found
  except ImportError as error:
    raise ImportError(
      f'expected Gradio for the page, found none ({error}); pip install '
      "'transfusion-jax[demo]'"
    ) from error
  return found


def build(
  make: buttons.Make,
  sampling: image.ImageSampling,
  *,
  title: str,
  levels: int,
  draws: bool,
) -> Any:
  """A `gradio.Blocks` with all that a model can do, one request at a time.

  Args:
    make: does an order.
    sampling: how pictures are drawn, unless the page says otherwise.
    title: of the page.
    levels: of noise; the most denoising steps.
    draws: whether there are pictures; else text is all that there is.
  """
  found = gradio()
  do = buttons.Buttons(make, sampling)
  # Pictures lie in a folder of Gradio's; every hour, those older than a day go.
  with found.Blocks(
    title=title, analytics_enabled=False, delete_cache=(3600, 86400)
  ) as page:
    found.Markdown(f'# {html.escape(title)}')
    drawing = [found.Number(0, label='Seed', precision=0, render=False)]
    if draws:
      drawing += _drawing(found, sampling, levels)
      _draw_tab(found, do, drawing)
      _describe_tab(found, do)
      _change_tab(found, do, drawing)
    _write_tab(found, do, drawing, draws=draws)
    with found.Row():
      for field in drawing:
        field.render()
  return page


def serve(page: Any, host: str, port: int) -> None:
  """Serves a page until Ctrl-C; what the browser asks for comes from here alone."""
  page.launch(
    server_name=host,
    server_port=port,
    share=False,
    show_error=True,
    footer_links=[],
    run_history=False,
    ssr_mode=False,
    quiet=True,
  )


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


def _drawing(found, sampling: image.ImageSampling, levels: int) -> list[Any]:
  kinds = list(get_args(solvers.Kind))
  return [
    found.Dropdown(kinds, value=sampling.solver, label='Solver', render=False),
    found.Slider(1, levels, value=sampling.steps, step=1, label='Steps', render=False),
    found.Slider(
      1, 10, value=sampling.guidance, step=0.1, label='Guidance', render=False
    ),
  ]


def _draw_tab(found, do: buttons.Buttons, drawing: list[Any]) -> None:
  with found.Tab('Draw'):
    prompt = found.Textbox(label='Prompt', placeholder='anything, if left empty')
    count = found.Slider(1, 16, value=4, step=1, label='Pictures')
    inputs = [prompt, count, *drawing]
    _button(found, 'Draw', do.draw, inputs, _gallery(found))


def _describe_tab(found, do: buttons.Buttons) -> None:
  with found.Tab('Describe'):
    picture = _picture(found)
    question = found.Textbox(label='Question', placeholder='none: a caption')
    inputs = [picture, question]
    said = found.Textbox(label='What the model says', render=False)
    _button(found, 'Describe', do.describe, inputs, said)


def _change_tab(found, do: buttons.Buttons, drawing: list[Any]) -> None:
  with found.Tab('Change'):
    with found.Tab('By words'):
      picture = _picture(found)
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
      prompt = found.Textbox(label='Prompt', placeholder='anything, if left empty')
      inputs = [painted, prompt, *drawing]
      _button(found, 'Inpaint', do.inpaint, inputs, _gallery(found))
    with found.Tab('Alike'):
      picture = _picture(found)
      strength = found.Slider(0.01, 1, value=0.6, step=0.01, label='Strength')
      prompt = found.Textbox(label='Prompt', placeholder='what it shows; may be empty')
      count = found.Slider(1, 16, value=4, step=1, label='Pictures')
      inputs = [picture, strength, prompt, count, *drawing]
      _button(found, 'Vary', do.vary, inputs, _gallery(found))


def _write_tab(found, do: buttons.Buttons, drawing: list[Any], *, draws: bool) -> None:
  with found.Tab('Write'):
    beginning = found.Textbox(label='Beginning', placeholder='may be empty', lines=3)
    pictures = found.State(0)
    if draws:
      pictures = found.Slider(0, 4, value=2, step=1, label='Most pictures')
    temperature = found.Slider(0, 2, value=1, step=0.05, label='Temperature')
    inputs = [beginning, pictures, temperature, *drawing]
    _button(found, 'Write', do.write, inputs, found.HTML(render=False))


def _picture(found) -> Any:
  picture = found.Image(label='Picture', sources=['upload', 'clipboard'])
  # The file as it came: Gradio would open it itself, and fail where it is broken.
  picture.preprocess = lambda given: None if given is None else given.path
  return picture


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
      raise found.Error(
        html.escape(error.message.removeprefix('error: ')),
        duration=None,
        print_exception=False,
      ) from None

  found.Button(name, variant='primary').click(
    shown,
    inputs,
    output.render(),
    api_name=name.lower(),
    concurrency_id='model',
    concurrency_limit=1,
  )
