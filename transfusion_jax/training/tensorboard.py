"""Curves for TensorBoard: event files, written without TensorFlow."""

import pathlib
from collections.abc import Mapping
from typing import Any

import tensorboardX


class Board:
  """Numbers by step in a folder, which begins with the first of them."""

  def __init__(self, folder: pathlib.Path, *, step: int | None):
    """Args: folder; step: the last that is to be seen of an earlier part, or None."""
    self._folder, self._step = folder, step
    self._writer: tensorboardX.SummaryWriter | None = None

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """What of the values is a number; the file is written within two minutes."""
    if self._writer is None:
      purged = None if self._step is None else self._step + 1
      self._writer = tensorboardX.SummaryWriter(str(self._folder), purge_step=purged)
    for name, value in values.items():
      if isinstance(value, int | float) and name != 'step':
        self._writer.add_scalar(name, value, step)

  def close(self) -> None:
    """Returns when everything is in the file."""
    if self._writer is not None:
      self._writer.close()
