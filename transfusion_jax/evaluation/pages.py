"""Pages for people, each one file that needs nothing else.

Styles and plots are inline, pictures are data URIs, and the content policy forbids a
page to fetch anything. Plots take the colour of the page's text, so that one file
serves light and dark.
"""

import os
import pathlib
from typing import Any

import jinja2

_PACKAGE = pathlib.Path(__file__).parents[1]


def render(template: str, **values: Any) -> str:
  """A page from a template of the package, named by its path from there."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_PACKAGE),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return environment.get_template(template).render(**values)


def replace(path: pathlib.Path, text: str) -> None:
  """Writes beside the file and renames, so that no reader sees half a file."""
  fresh = path.with_name(path.name + '.tmp')
  with fresh.open('w', encoding='utf-8') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  fresh.replace(path)


def number(value: float) -> str:
  """Four digits or so: 0.9844, 28.31, 1,154."""
  digits = 4 if abs(value) < 10 else 2 if abs(value) < 100 else 0
  text = f'{value:,.{digits}f}'
  return text.rstrip('0').rstrip('.') if '.' in text else text
