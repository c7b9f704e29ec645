"""What is asked of storage before it is relied on, and how files and folders change."""

import contextlib
import os
import pathlib
import shutil


def trouble(directory: pathlib.Path, needed: int) -> str:
  """Why so many bytes cannot be written below a folder; empty if they can.

  The folder is made if it is not there.
  """
  probe = directory / '.probe'
  try:
    directory.mkdir(parents=True, exist_ok=True)
    probe.write_bytes(b'.')
    probe.unlink(missing_ok=True)  # another process may have the same one
    free = shutil.disk_usage(directory).free
  except OSError as error:
    return str(error)
  if free < needed:
    return f'{needed / 2**20:,.1f} MiB are needed, {free / 2**20:,.1f} MiB are free'
  return ''


def numbers(directory: pathlib.Path) -> list[int]:
  """Folders that have a number for a name, ascending; none where it cannot be said."""
  try:
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())
  except OSError:
    return []


def append(path: pathlib.Path, data: bytes) -> None:
  """Adds to the end of a file, on disk when this returns; all of it, or OSError."""
  path.parent.mkdir(parents=True, exist_ok=True)
  size = path.stat().st_size if path.exists() else 0
  try:
    with path.open('ab') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
  except OSError:
    with contextlib.suppress(OSError):
      os.truncate(path, size)
    raise


def set_aside(folder: pathlib.Path, place: pathlib.Path) -> pathlib.Path:
  """Renames a folder, to a name with a number behind it if that is taken.

  Returns:
    The new name.
  """
  place.parent.mkdir(parents=True, exist_ok=True)
  number, target = 1, place
  while target.exists():
    number += 1
    target = place.with_name(f'{place.name}-{number}')
  return folder.rename(target)
