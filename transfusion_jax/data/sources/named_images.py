"""References to an image in a record: its bytes, the name of its file, base64.

Base64 may be bare or a `data:` URL, as APIs and Parquet without bytes have it.
"""

import base64
import binascii
from typing import Any

from transfusion_jax.data.images import headers
from transfusion_jax.data.sources import files

SHORTEST = 40
"""Characters of base64 that can hold an image."""

LONGEST_NAME = 4096
"""Characters of the name of a file."""


def opened(beside: files.Files, number: int, field: str, value: Any) -> Any:
  """The bytes of the image, or of the list of images, that a value stands for.

  A list of one image is that image, and an empty one nothing (None).

  Args:
    beside: the files of the source.
    number: of the file that holds the record; names are taken from its folder.
    field: of the value, for messages.
    value: None, bytes, text, or a list of such.

  Raises:
    ValueError: it stands for no image, or the file cannot be read.
  """
  if value is None or isinstance(value, bytes):
    return value
  if isinstance(value, str):
    return value and _one(beside, number, value)
  if isinstance(value, list):
    found = [opened(beside, number, field, each) for each in value]
    if len(found) == 1 and found[0] is not None:
      return found[0]
    return found or None
  raise ValueError(
    f'expected the name of a picture file in {field!r}, found '
    f'{type(value).__name__}; name the fields that hold such'
  )


def _one(beside: files.Files, number: int, value: str) -> bytes:
  if value[:5].lower() == 'data:':
    head, _, content = value.partition(',')
    data = _decoded(content) if head.lower().endswith(';base64') else None
    if not data:
      raise ValueError(
        f'expected an image in base64 behind data:, found {value[:60]!r}; write it as '
        'data:image/png;base64,... or name a file'
      )
    return data
  if _is_base64(value):
    data = _decoded(value)
    if data is None:
      raise ValueError(
        f'expected an image in base64, found {len(value)} characters of which some are '
        f'none, {value[:20]!r}...; encode it again'
      )
    return data
  if len(value) > LONGEST_NAME:
    raise ValueError(
      f'expected the name of a picture file or an image in base64, found '
      f'{len(value)} characters that are neither, {value[:20]!r}...; mend the record'
    )
  return beside.read_beside(number, value)


def _is_base64(value: str) -> bool:
  """True if text begins like base64 of a kind of image, rather than like a name."""
  if len(value) < SHORTEST:
    return False
  head = _decoded(value[:SHORTEST])
  kind = head and headers.kind(head)
  return kind != headers.BMP or head[6:10] == bytes(4) if kind else False


def _decoded(text: str) -> bytes | None:
  """The bytes that base64 stands for, with or without line ends and padding."""
  text = ''.join(text.split()).translate(str.maketrans('-_', '+/')).rstrip('=')
  try:
    return base64.b64decode(text + '=' * (-len(text) % 4), validate=True)
  except (binascii.Error, ValueError):
    return None
