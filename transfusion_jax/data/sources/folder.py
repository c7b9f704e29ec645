"""A folder of pictures with their captions beside them: `name.jpg` and `name.txt`."""

import numpy as np

from transfusion_jax.data.sources import files, source

PICTURES = ('.jpg', '.jpeg', '.png', '.webp', '.gif', '.bmp', '.tiff', '.tif')
TEXT = '.txt'
NONE = -1


class Folder:
  """One record for every picture, and for every text without a picture.

  `image`: the bytes of the picture; missing where there is none. `text`: that of the
  file of the same name, without white space around it; empty where there is none.
  `key`: the name of both below the folder, without the ending. Pictures that differ in
  the ending alone share their text.
  """

  def __init__(self, path: str):
    """Lists the files of a folder, and of those in it; see `files`.

    Raises:
      ValueError: there are none.
    """
    self._files = files.find(path, (*PICTURES, TEXT))
    stems = [name.rpartition('.')[0] for name in self._files.names]
    is_text = [name.lower().endswith(TEXT) for name in self._files.names]
    texts = {stems[n]: n for n in range(len(stems)) if is_text[n]}
    pictured = {stems[n] for n in range(len(stems)) if not is_text[n]}
    self._records = np.asarray(
      [
        (NONE, n) if is_text[n] else (n, texts.get(stems[n], NONE))
        for n in range(len(stems))
        if not (is_text[n] and stems[n] in pictured)
      ]
    )  # numbers of picture and text

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> source.Record:
    picture, text = self._records[index].tolist()
    either = text if picture == NONE else picture
    record = {'key': self._files.names[either].rpartition('.')[0], 'text': ''}
    with source.named(self, index):
      if text != NONE:
        try:
          record['text'] = source.text(self._files.read(text)).strip()
        except ValueError as error:
          raise ValueError(f'{self._files.path(text)}: {error}') from error
      if picture != NONE:
        data = self._files.read(picture)
        record['image'] = source.not_empty(data, self._files.path(picture))
    return record

  def name(self, index: int) -> str:
    """The path of the picture, or else of the text."""
    picture, text = self._records[index].tolist()
    return self._files.path(text if picture == NONE else picture)

  def fingerprint(self) -> str:
    return source.digest(['folder', self._files.listing()])
