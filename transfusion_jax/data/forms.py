"""From a record of a data set to a document: which field is read as what.

A record is a dict of plain values: texts as `str`, pictures as the bytes of a file or
as pixels, a list where a record holds several. What is drawn at random (the order of
picture and caption, whether the caption is left out, which of several captions, where a
picture is cropped) comes from a generator that belongs to the document, so that it is
the same whoever makes it, whenever.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from transfusion_jax.data import documents
from transfusion_jax.data.images import image_files

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class FormConfig:
  """Form in which the records of a source become documents.

  Attributes:
    kind: of document.
      'captioned': a picture and its text, in either order; either alone where the other
      is missing. Of several texts one is drawn. A class name is a caption too.
      'text': text alone. 'picture': the picture alone.
      'interleaved': lists of texts and pictures of one length, at every place one of
      the two and nothing at the other.
      'edit': a picture and an instruction as context, and the picture that results.
      'question': a picture (or none) and a question as context, and the answer.
    picture: field of the picture, or of the list of pictures.
    text: field of the caption, text, instruction or question, or of the list of texts.
    answer: field of the answer.
    result: field of the picture that an edit results in.
    caption_first: share of captioned pictures whose text comes first; 0.8 in the paper.
    caption_drop: share of those that go without their text, for guidance.
    noise_cap: largest noise level of a picture that precedes its text; 0.5 in the paper
      (Transfusion, Table 8).
  """

  kind: Literal['captioned', 'text', 'picture', 'interleaved', 'edit', 'question']
  picture: str
  text: str
  answer: str
  result: str
  caption_first: float
  caption_drop: float
  noise_cap: float

  def __post_init__(self):
    for name in ('caption_first', 'caption_drop', 'noise_cap'):
      if not 0 <= getattr(self, name) <= 1:
        found = getattr(self, name)
        raise ValueError(f'expected {name} from 0 to 1, found {found}; use a share')

  @property
  def pictures(self) -> tuple[str, ...]:
    """Fields that hold pictures."""
    fields = {'text': (), 'edit': (self.picture, self.result)}
    return fields.get(self.kind, (self.picture,))

  @property
  def fields(self) -> tuple[str, ...]:
    """Fields that are read at all."""
    texts = {'picture': (), 'question': (self.text, self.answer)}
    return self.pictures + texts.get(self.kind, (self.text,))


class Form:
  """Makes documents of records."""

  def __init__(self, config: FormConfig, pictures: image_files.ImagesConfig | None):
    """Sets up the form.

    Args:
      config: which field is what.
      pictures: their size in a document; None: moments of latents are stored instead.
    """
    self._config, self._pictures = config, pictures
    kinds = {
      'captioned': self._captioned,
      'text': self._text,
      'picture': self._picture,
      'interleaved': self._interleaved,
      'edit': self._edit,
      'question': self._question,
    }
    self._make = kinds[config.kind]

  @property
  def fields(self) -> tuple[str, ...]:
    """Fields of a record that are read."""
    return self._config.fields

  def document(self, record: Record, rng: np.random.Generator) -> documents.Document:
    """The document of a record.

    Raises:
      ValueError: a field is missing, of another type or empty, or a picture is broken.
    """
    document = self._make(record, rng)
    if not document:
      raise ValueError(
        f'expected a record with something in {self._config.fields}, found nothing; '
        'name other fields in `form`, or leave the record out'
      )
    return document

  def captioned(self, record: Record) -> documents.Captioned:
    """The picture of a record and all its texts, nothing left to chance.

    Raises:
      ValueError: either is missing, the picture is broken, or latents are stored.
    """
    config = self._config
    values = listed(record.get(config.text))
    texts = [part.text for value in values for part in self._said(value, False)]
    shown = self._shown(record.get(config.picture), None, cap=0.0)
    if self._pictures is None or not shown or not texts:
      raise ValueError(
        f'expected a picture in the field {config.picture!r} and text in '
        f'{config.text!r}, found one of them missing; name other fields in `form`'
      )
    return documents.Captioned(shown[0].pixels, tuple(texts))

  def _captioned(self, record, rng) -> documents.Document:
    config = self._config
    first, dropped = rng.random(2) < (config.caption_first, config.caption_drop)
    texts = listed(record.get(config.text))
    text = self._said(texts[int(rng.integers(len(texts)))] if texts else None, True)
    cap = 1.0 if first or not text else config.noise_cap
    shown = self._shown(record.get(config.picture), rng, cap=cap)
    if first:
      return shown if dropped and shown else (*text, *shown)
    return (*shown, *text)

  def _text(self, record, rng) -> documents.Document:
    del rng
    return self._said(record.get(self._config.text), True)

  def _picture(self, record, rng) -> documents.Document:
    return self._shown(record.get(self._config.picture), rng, cap=1.0)

  def _interleaved(self, record, rng) -> documents.Document:
    config = self._config
    texts = listed(record.get(config.text))
    pictures = listed(record.get(config.picture))
    if len(texts) != len(pictures):
      raise ValueError(
        f'expected as many places for texts as for pictures, found {len(texts)} in '
        f'{config.text!r} and {len(pictures)} in {config.picture!r}; fill the places '
        'of the other kind with null'
      )
    document: documents.Document = ()
    for text, picture in zip(texts, pictures, strict=True):
      if given(text) and given(picture):
        raise ValueError(
          'expected a text or a picture at every place, found both at one; put them '
          'one after the other'
        )
      cap = 1.0 if document else config.noise_cap
      document += self._said(text, True) + self._shown(picture, rng, cap=cap)
    return document

  def _edit(self, record, rng) -> documents.Document:
    config = self._config
    before = self._shown(record.get(config.picture), rng, cap=0.0, learn=False)
    after = self._shown(record.get(config.result), rng, cap=1.0)
    said = self._said(record.get(config.text), False)
    _demand(before and after and said, 'two pictures and an instruction', config)
    return (*before, *said, *after)

  def _question(self, record, rng) -> documents.Document:
    config = self._config
    shown = self._shown(record.get(config.picture), rng, cap=0.0, learn=False)
    question = self._said(record.get(config.text), False)
    answer = self._said(record.get(config.answer), True)
    _demand(question and answer, 'a question and an answer', config)
    return (*shown, *question, *answer)

  def _said(self, value: Any, learn: bool) -> documents.Document:
    if not given(value):
      return ()
    if not isinstance(value, str):
      raise ValueError(
        f'expected text in the fields of {self._config.kind!r} documents, found '
        f'{type(value).__name__}; name a field that holds text'
      )
    _check_characters(value)
    return (documents.Text(value, learn),) if value.strip() else ()

  def _shown(self, value: Any, rng, *, cap: float, learn=True) -> documents.Document:
    if len(several := listed(value)) > 1:
      raise ValueError(
        f'expected one image in the fields {self._config.pictures}, found a list of '
        f"{len(several)}; take form.kind='interleaved', or name other fields in `form`"
      )
    (value,) = several or [None]
    if not given(value):
      return ()
    if self._pictures is not None:
      value = image_files.decode(
        picture_bytes(value, self._config.pictures), self._pictures, rng
      )
    elif not _is_moments(value):
      raise ValueError(
        f'expected latents from encode_images in {self._config.pictures}, found '
        f'{_kind(value)}; encode these fields too, or set data.moments=false'
      )
    return (documents.Image(value, learn, cap),)


def picture_bytes(value: Any, fields: Sequence[str]) -> bytes:
  """The value of one of these fields as the bytes of a file.

  Raises:
    ValueError: it is neither that nor pixels.
  """
  if isinstance(value, bytes):
    return value
  if isinstance(value, np.ndarray) and value.dtype == np.uint8:
    grey = value.ndim == 2 or value.shape[2:] == (1,)
    pixels = np.repeat(value.reshape(*value.shape[:2], 1), 3, 2) if grey else value
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or not pixels.size:
      raise ValueError(
        f'expected pixels [height, width, 3] in {tuple(fields)}, found '
        f'{list(value.shape)}; store them so, or as files'
      )
    return image_files.encode_png(pixels)
  latents = ', or set data.moments=true' if isinstance(value, np.ndarray) else ''
  raise ValueError(
    f'expected the bytes of a picture in {tuple(fields)}, found {_kind(value)}; '
    f'name a field that holds pictures{latents}'
  )


def given(value: Any) -> bool:
  """True if a field has a value that is not empty."""
  return value is not None and not (isinstance(value, str | bytes) and not value)


def listed(value: Any) -> list[Any]:
  """Value of a field, as a list."""
  return value if isinstance(value, list) else [] if value is None else [value]


def _is_moments(value: Any) -> bool:
  """True if a value can be moments of latents, [y, x, 2 c]."""
  array = isinstance(value, np.ndarray)
  return array and value.dtype == np.float16 and value.ndim == 3 and value.size > 0


def _kind(value: Any) -> str:
  array = isinstance(value, np.ndarray)
  return f'{value.dtype}{list(value.shape)}' if array else type(value).__name__


def _check_characters(text: str) -> None:
  """Raises ValueError for halves of characters (surrogates), which no file can hold."""
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise ValueError(
      f'expected text of whole characters, found half of one at {error.start}; save it '
      'as UTF-8 again'
    ) from error


def _demand(met: Any, what: str, config: FormConfig) -> None:
  if not met:
    raise ValueError(
      f'expected {what} in the fields {config.fields}, found one of them empty; name '
      'other fields in `form`, or leave the record out'
    )
